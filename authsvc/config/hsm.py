"""Owns the settings of the HSM that may hold the signing keys."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr

from authsvc.config.types import Between, Duration, FilePath, Section


class HsmSettings(Section):
    """The HSM that holds signing keys, reached through its PKCS#11 module."""

    module: FilePath = Field(description="The PKCS#11 module of the HSM, a shared library.")
    token: str = Field(min_length=1, max_length=32, description="The label of the token.")
    pin: SecretStr = Field(min_length=1, description="The PIN of the token's user.")
    timeout: Annotated[Duration, Between("100ms", "60s")] = Field(
        timedelta(seconds=3),
        description="After which time a call that needs a signature fails as UNAVAILABLE.",
    )
