"""Owns the settings of passwords: the policy, and the cost of hashing."""

from typing import Literal, Self

from pydantic import Field, model_validator

from authsvc.config.types import Section


class PasswordSettings(Section):
    """Passwords: the policy, and the cost of hashing."""

    preset: Literal["standard", "nist"] = "standard"
    argon2_memory_kib: int = Field(19_456, ge=19_456, le=4_194_304)
    argon2_time_cost: int = Field(2, ge=2, le=64)
    argon2_parallelism: int = Field(1, ge=1, le=64)
    hash_workers: int = Field(0, ge=0, le=256, description="0 means one per processor.")
    hash_queue: int = Field(64, ge=1, le=100_000)
    # The costliest hash that is accepted from another system needs 256 MiB.
    hash_memory_mib: int = Field(
        288, ge=272, le=1_048_576, description="The memory of all hashes in progress."
    )

    @model_validator(mode="after")
    def _one_hash_fits(self) -> Self:
        if self.argon2_memory_kib > self.hash_memory_mib * 1024:
            raise ValueError(
                f"argon2_memory_kib needs a hash_memory_mib of at least"
                f" {-(-self.argon2_memory_kib // 1024)}"
            )
        return self
