"""Owns the settings of the keyring and of the peppers."""

from typing import Self

from pydantic import Field, model_validator

from authsvc.config.types import KeySettings, Section


class SecretSettings(Section):
    """The keyring that encrypts secrets at rest and the peppers of passwords, newest first.

    Existing secrets and hashes stay usable with older entries; new ones use the first entry.
    """

    keyring: tuple[KeySettings, ...] = Field(min_length=1, description="The keys, newest first.")
    peppers: tuple[KeySettings, ...] = Field(min_length=1, description="The peppers, newest first.")

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        for name, keys in (("keyring", self.keyring), ("peppers", self.peppers)):
            if len({key.id for key in keys}) != len(keys):
                raise ValueError(f"two entries of {name} have the same id")
        return self
