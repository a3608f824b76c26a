"""Owns the settings of rate limits and of brute-force protection."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from authsvc.config.types import Duration, Section
from authsvc.models.limits import OWN_PREFIX, Algorithm


def _check_policy_name(name: str) -> str:
    if name.startswith(OWN_PREFIX):
        raise ValueError(f'names that start with "{OWN_PREFIX}" are reserved')
    return name


PolicyName = Annotated[
    str, Field(pattern=r"^[a-z0-9_.-]{1,64}$"), AfterValidator(_check_policy_name)
]


class PolicySettings(Section):
    """A rate-limit policy."""

    requests: int = Field(ge=1, le=1_000_000_000)
    window: Duration
    burst: int = Field(0, ge=0, le=1_000_000_000)
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET

    @model_validator(mode="after")
    def _window_is_sane(self) -> Self:
        if not timedelta(seconds=1) <= self.window <= timedelta(days=366):
            raise ValueError("window must be from 1s to 366d")
        return self


class NamedPolicySettings(PolicySettings):
    """A rate-limit policy that callers may name."""

    durable: bool = False


def _shipped_policies() -> dict[str, NamedPolicySettings]:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    return {
        "login": NamedPolicySettings(requests=5, window=5 * minute, burst=10),
        "api": NamedPolicySettings(requests=1_000, window=hour, burst=100),
        "upload": NamedPolicySettings(requests=10, window=hour, burst=20),
    }


class RateLimitSettings(Section):
    """Rate-limit policies by name, which add to the shipped ones or replace them."""

    policies: dict[PolicyName, NamedPolicySettings] = Field(default_factory=dict)
    rejected_cache_size: int = Field(100_000, ge=0)

    def all_policies(self) -> dict[str, NamedPolicySettings]:
        """Return the shipped policies merged with the configured ones, which take precedence."""
        return _shipped_policies() | self.policies


class BruteForceSettings(Section):
    """How many failed logins are allowed per account, address and device."""

    per_account_and_ip: PolicySettings = PolicySettings(requests=5, window=timedelta(minutes=5))
    per_account: PolicySettings = PolicySettings(requests=20, window=timedelta(hours=1))
    per_ip: PolicySettings = PolicySettings(requests=50, window=timedelta(minutes=10))
    per_known_device: PolicySettings = PolicySettings(requests=10, window=timedelta(minutes=15))
    proofs_per_ip: PolicySettings = PolicySettings(requests=100, window=timedelta(minutes=10))
    registrations_per_ip: PolicySettings = PolicySettings(requests=20, window=timedelta(hours=1))
    registrations_per_address: PolicySettings = PolicySettings(
        requests=5, window=timedelta(hours=1)
    )
    passkey_logins_per_ip: PolicySettings = PolicySettings(
        requests=300, window=timedelta(minutes=10)
    )
    oauth_logins_per_ip: PolicySettings = PolicySettings(requests=60, window=timedelta(minutes=10))
    api_keys_per_user: PolicySettings = PolicySettings(requests=50, window=timedelta(days=1))
    max_consecutive_failures: int = Field(
        100,
        ge=2,
        le=100,
        description="Per account: half for all its known devices together, half for all others.",
    )
    ipv4_prefix: int = Field(32, ge=8, le=32)
    ipv6_prefix: int = Field(64, ge=16, le=128)
