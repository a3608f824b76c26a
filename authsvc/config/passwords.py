"""Owns the settings of passwords: the policy, and the cost of hashing."""

from typing import Literal, Self

from pydantic import Field, model_validator

from authsvc.config.types import Section


class PasswordSettings(Section):
    """Passwords: the policy, and the cost of hashing."""

    preset: Literal["standard", "nist"] = Field(
        "standard",
        description=(
            "`nist` asks for 15 characters of any kind instead of 12 of four kinds or 20 of any."
        ),
    )
    argon2_memory_kib: int = Field(
        19_456, ge=19_456, le=4_194_304, description="Memory of a hash, in KiB."
    )
    argon2_time_cost: int = Field(2, ge=2, le=64, description="Passes of a hash.")
    argon2_parallelism: int = Field(1, ge=1, le=64, description="Lanes of a hash.")
    hash_workers: int = Field(
        0,
        ge=0,
        le=256,
        description=(
            "Threads that hash; 0 means one less than the processors that the service may use,"
            " by affinity and CPU quota, and at least one. Imported hashes leave one thread to"
            " others, and get a second one where there is one."
        ),
    )
    hash_queue: int = Field(
        64,
        ge=1,
        le=100_000,
        description=(
            "Passwords that may wait for a thread, and imported ones as many again; more get"
            " `OVERLOADED`, as does one that is not done after 3 seconds."
        ),
    )
    # The costliest hash that is accepted from another system needs 256 MiB.
    hash_memory_mib: int = Field(
        288,
        ge=272,
        le=1_048_576,
        description=(
            "Memory of all hashes that are computed at once, in MiB; others wait. At least"
            " `argon2_memory_kib`."
        ),
    )

    @model_validator(mode="after")
    def _one_hash_fits(self) -> Self:
        if self.argon2_memory_kib > self.hash_memory_mib * 1024:
            raise ValueError(
                f"argon2_memory_kib needs a hash_memory_mib of at least"
                f" {-(-self.argon2_memory_kib // 1024)}"
            )
        return self
