"""Owns the settings of how secrets are sealed in the database."""

from typing import Literal

from pydantic import Field

from authsvc.config.types import Section
from authsvc.models.sealing import SealAlgorithm


class EncryptionSettings(Section):
    """How secrets are sealed in the database; the keys are in `secrets.keyring`."""

    algorithm: SealAlgorithm = Field(
        SealAlgorithm.AES_256_GCM,
        description="What new values are sealed with; those of either algorithm are opened."
        " `ChaCha20-Poly1305` is faster on processors without AES instructions.",
    )
    missing_keys: Literal["refuse", "warn"] = Field(
        "refuse",
        description="Whether the service refuses to start if a key or pepper that stored secrets"
        " need is missing in the settings, or only logs it.",
    )
