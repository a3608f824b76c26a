"""Owns the settings of rate limits and of brute-force protection."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from authsvc.config.types import Between, Duration, Form, NotBeginning, Section
from authsvc.models.limits import OWN_PREFIX, Algorithm

PolicyName = Annotated[
    str,
    Form("[a-z0-9_.-]{1,64}", "a name of at most 64 lower-case letters, digits, dots, _ and -"),
    NotBeginning(OWN_PREFIX),
]


class PolicySettings(Section):
    """A rate-limit policy."""

    requests: int = Field(ge=1, le=1_000_000_000, description="How much may be used in a window.")
    window: Annotated[Duration, Between("1s", "366d")] = Field(
        description="The length of the window."
    )
    burst: int = Field(
        0, ge=0, le=1_000_000_000, description="The most in any one second; 0 means no such limit."
    )
    algorithm: Algorithm = Field(Algorithm.TOKEN_BUCKET, description="How it counts: see below.")


class NamedPolicySettings(PolicySettings):
    """A rate-limit policy that callers may name."""

    requests: int = Field(
        ge=0,
        le=1_000_000_000,
        description="How much may be used in a window; with 0, nothing is ever allowed.",
    )
    durable: bool = Field(
        False, description="Whether its counts survive a crash of PostgreSQL: see below."
    )
    unlimited: bool = Field(
        False, description="Whether everything is allowed, whatever the numbers, without a query."
    )
    shadow: bool = Field(
        False, description="Whether it counts and reports, but refuses nothing: see below."
    )


def _shipped_policies() -> dict[str, NamedPolicySettings]:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    return {
        "login": NamedPolicySettings(requests=5, window=5 * minute, burst=10),
        "api": NamedPolicySettings(requests=1_000, window=hour, burst=100),
        "upload": NamedPolicySettings(requests=10, window=hour, burst=20),
    }


class RateLimitSettings(Section):
    """Rate-limit policies by name, which add to the shipped ones or replace them."""

    policies: dict[PolicyName, NamedPolicySettings] = Field(
        default_factory=dict, description="The policies, by name."
    )
    rejected_cache_size: int = Field(
        100_000, ge=0, description="Rejected keys that each replica remembers; 0 turns that off."
    )

    def all_policies(self) -> dict[str, NamedPolicySettings]:
        """Return the shipped policies merged with the configured ones, which take precedence."""
        return _shipped_policies() | self.policies


class BruteForceSettings(Section):
    """How many failed logins are allowed per account, address and device."""

    per_account_and_ip: PolicySettings = Field(
        PolicySettings(requests=5, window=timedelta(minutes=5)),
        description="Failed attempts at one account from one network.",
    )
    per_account: PolicySettings = Field(
        PolicySettings(requests=20, window=timedelta(hours=1)),
        description="Failed attempts at one account, except from known devices.",
    )
    per_ip: PolicySettings = Field(
        PolicySettings(requests=50, window=timedelta(minutes=10)),
        description="Failed attempts from one network, at any account.",
    )
    per_known_device: PolicySettings = Field(
        PolicySettings(requests=10, window=timedelta(minutes=15)),
        description="Failed attempts at one account from one device that logged in before.",
    )
    proofs_per_ip: PolicySettings = Field(
        PolicySettings(requests=100, window=timedelta(minutes=10)),
        description=(
            "Failed proofs from one network that can't be guessed: passkeys, answers of other"
            " providers, password reset codes."
        ),
    )
    registrations_per_ip: PolicySettings = Field(
        PolicySettings(requests=20, window=timedelta(hours=1)),
        description="Registrations from one network.",
    )
    registrations_per_address: PolicySettings = Field(
        PolicySettings(requests=5, window=timedelta(hours=1)),
        description="Repeated registrations of one e-mail address.",
    )
    passkey_logins_per_ip: PolicySettings = Field(
        PolicySettings(requests=300, window=timedelta(minutes=10)),
        description="Passkey logins begun from one network.",
    )
    oauth_logins_per_ip: PolicySettings = Field(
        PolicySettings(requests=60, window=timedelta(minutes=10)),
        description="Logins at other providers begun from one network.",
    )
    api_keys_per_user: PolicySettings = Field(
        PolicySettings(requests=50, window=timedelta(days=1)),
        description="API keys that one user creates, revoked ones included.",
    )
    session_keys_per_user: PolicySettings = Field(
        PolicySettings(requests=300, window=timedelta(hours=1)),
        description="Session keys that one user has attested, repeated ones included.",
    )
    turn_credentials_per_user: PolicySettings = Field(
        PolicySettings(requests=300, window=timedelta(hours=1)),
        description="Credentials for TURN servers that one user gets.",
    )
    max_consecutive_failures: int = Field(
        100,
        ge=2,
        le=100,
        description=(
            "Failed attempts in a row at one account: half for its known devices together, half"
            " for everybody else."
        ),
    )
    ipv4_prefix: int = Field(
        32, ge=8, le=32, description="The bits of an IPv4 address that make a network."
    )
    ipv6_prefix: int = Field(
        64, ge=16, le=128, description="The bits of an IPv6 address that make a network."
    )
