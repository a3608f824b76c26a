"""Owns the settings of passwords: the policy, breached ones, and the cost of hashing."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from authsvc.config.types import Address, Between, Duration, FilePath, Section


class BreachedPasswordSettings(Section):
    """The look-up of new passwords in a service that knows breached ones, by range."""

    address: Address | None = Field(
        None,
        description=(
            "Where to ask, such as `https://api.pwnedpasswords.com/range`; the first five digits of"
            " the password's SHA-1 are appended. Without it, nobody is asked."
        ),
    )
    ca_file: FilePath | None = Field(
        None, description="Authorities to trust instead of the system's, PEM."
    )
    timeout: Annotated[Duration, Between("1ms", "10s")] = Field(
        timedelta(seconds=2), description="How long an answer may take."
    )
    on_failure: Literal["allow", "refuse"] = Field(
        "allow",
        description=(
            "What happens to a new password if there is no valid answer in time; `refuse` answers"
            " `PROVIDER_UNAVAILABLE`."
        ),
    )
    threshold: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="A password that was breached more often than this is refused.",
    )
    cache_size: int = Field(
        256, ge=1, le=65_536, description="Answers that are remembered, of about 35 kB each."
    )
    cache_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(days=1), description="How long an answer is remembered."
    )


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

    breached: BreachedPasswordSettings = Field(
        BreachedPasswordSettings(), description="The look-up of breached passwords."
    )

    @model_validator(mode="after")
    def _one_hash_fits(self) -> Self:
        if self.argon2_memory_kib > self.hash_memory_mib * 1024:
            raise ValueError(
                f"argon2_memory_kib needs a hash_memory_mib of at least"
                f" {-(-self.argon2_memory_kib // 1024)}"
            )
        return self
