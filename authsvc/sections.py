"""Owns the sections of the settings: names, kinds, defaults and bounds of all that can be set."""

import base64
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from authsvc.models import Algorithm, Role

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse_duration(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)(ms|s|m|h|d)", value)):
        return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if isinstance(value, timedelta) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError('expected a duration such as "500ms", "30s", "10m", "1h" or "7d"')


Duration = Annotated[timedelta, BeforeValidator(_parse_duration)]


def _key_bytes(secret: SecretStr) -> bytes:
    key = base64.b64decode(secret.get_secret_value(), validate=True)
    if len(key) != 32:
        raise ValueError("expected 32 bytes in base64")
    return key


class Section(BaseModel):
    """A part of the settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrpcSettings(Section):
    """The gRPC port and what one client may take of it."""

    address: str = "127.0.0.1:8443"
    max_message_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    max_batch_message_bytes: int = Field(2_097_152, ge=1_024, le=16_777_216)
    max_metadata_bytes: int = Field(16_384, ge=1_024, le=1_048_576)
    max_concurrent_rpcs: int = Field(1_000, ge=1)
    max_concurrent_rpcs_per_caller: int = Field(750, ge=1)
    max_concurrent_streams: int = Field(256, ge=1)
    max_connections: int = Field(1_000, ge=1)
    max_connection_age: Duration = timedelta(minutes=30)
    max_connection_idle: Duration = timedelta(minutes=15)
    min_ping_interval: Duration = timedelta(seconds=30)
    handshake_timeout: Duration = timedelta(seconds=5)
    call_timeout: Duration = timedelta(seconds=10)
    drain_timeout: Duration = timedelta(seconds=20)
    reflection: bool = True


class HttpSettings(Section):
    """The small HTTP port: JWKS, discovery, metrics, livez, readyz."""

    address: str = "127.0.0.1:8081"


class TlsSettings(Section):
    """The server's certificate and the authorities that client certificates must come from."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    min_version: Literal["1.2", "1.3"] = "1.2"


# A scope-token (RFC 6749, section 3.3): permissions become the `scope` of access tokens.
PermissionName = Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,64}$")]
Audience = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


class CallerSettings(Section):
    """A calling service: its identity (`spiffe://…` or `dns:name`), its roles, and its tokens."""

    identity: str = Field(pattern=r"^(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+|dns:[a-z0-9.-]+)$")
    roles: frozenset[Role] = Field(min_length=1)
    audiences: frozenset[Audience] = Field(
        frozenset(), description="Whom it may ask tokens for; none: nobody."
    )
    scopes: frozenset[PermissionName] = Field(
        frozenset(), max_length=64, description="What tokens of its own may do."
    )


class DatabaseSettings(Section):
    """PostgreSQL: the address, the pool, and how long to wait for either."""

    url: SecretStr
    listener_url: SecretStr | None = None
    pool_min: int = Field(2, ge=0)
    pool_max: int = Field(16, ge=1)
    connect_timeout: Duration = timedelta(seconds=5)
    acquire_timeout: Duration = timedelta(seconds=3)
    command_timeout: Duration = timedelta(seconds=5)
    statement_cache_size: int = Field(256, ge=0)


class KeySettings(Section):
    """A 32-byte key in base64 and the id that what it made is marked with."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    key: SecretStr

    @model_validator(mode="after")
    def _key_has_its_length(self) -> Self:
        self.key_bytes()
        return self

    def key_bytes(self) -> bytes:
        """Return the key's 32 bytes."""
        return _key_bytes(self.key)


class SecretSettings(Section):
    """The keyring that seals secrets at rest and the peppers of passwords, newest first.

    What an older entry made stays usable; what is made anew uses the first.
    """

    keyring: tuple[KeySettings, ...] = Field(min_length=1)
    peppers: tuple[KeySettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        for name, keys in (("keyring", self.keyring), ("peppers", self.peppers)):
            if len({key.id for key in keys}) != len(keys):
                raise ValueError(f"two entries of {name} have the same id")
        return self


class TokenSettings(Section):
    """Access and refresh tokens."""

    issuer: str = "https://authsvc.dev"
    audience: str = Field("authsvc", min_length=1, max_length=256)
    algorithm: Literal["ES256", "EdDSA", "RS256", "HS256"] = "ES256"
    access_lifetime: Duration = timedelta(hours=1)
    refresh_lifetime: Duration = timedelta(days=7)
    service_lifetime: Duration = timedelta(minutes=10)
    refresh_grace: Duration = timedelta(seconds=10)
    clock_skew: Duration = timedelta(seconds=5)
    key_rotation_interval: Duration = timedelta(days=30)
    key_publish_lead: Duration = timedelta(hours=1)

    @model_validator(mode="after")
    def _lifetimes_are_sane(self) -> Self:
        if not timedelta(0) <= self.refresh_grace <= timedelta(seconds=300):
            raise ValueError("refresh_grace must be from 0s to 300s")
        lifetimes = (self.access_lifetime, self.refresh_lifetime, self.service_lifetime)
        if min(lifetimes) < timedelta(seconds=1):
            raise ValueError(
                "access_lifetime, refresh_lifetime and service_lifetime must be 1s or more"
            )
        return self


class SessionSettings(Section):
    """Sessions: how long, how many, bound to what."""

    absolute_lifetime: Duration = timedelta(days=30)
    max_per_user: int = Field(5, ge=1, le=1_000)
    ip_binding: Literal["off", "subnet", "exact"] = "off"
    user_agent_binding: bool = False
    last_use_interval: Duration = timedelta(minutes=1)
    cache_size: int = Field(50_000, ge=0)
    cache_staleness: Duration = timedelta(seconds=1)


class PasswordSettings(Section):
    """Passwords: the policy, and what a hash costs."""

    preset: Literal["standard", "nist"] = "standard"
    argon2_memory_kib: int = Field(19_456, ge=19_456, le=4_194_304)
    argon2_time_cost: int = Field(2, ge=2, le=64)
    argon2_parallelism: int = Field(1, ge=1, le=64)
    hash_workers: int = Field(0, ge=0, le=256, description="0: one for each processor")
    hash_queue: int = Field(64, ge=1, le=100_000)


def _check_policy_name(name: str) -> str:
    if name.startswith("authsvc."):
        raise ValueError('names that start with "authsvc." are the service\'s own')
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


def _shipped_policies() -> dict[str, PolicySettings]:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    return {
        "login": PolicySettings(requests=5, window=5 * minute, burst=10),
        "api": PolicySettings(requests=1_000, window=hour, burst=100),
        "upload": PolicySettings(requests=10, window=hour, burst=20),
    }


def _shipped_permissions() -> dict[str, tuple[str, ...]]:
    return {"user": ("read", "write")}


class RateLimitSettings(Section):
    """Rate-limit policies by name; those given are added to the shipped ones or replace them."""

    policies: dict[PolicyName, PolicySettings] = Field(default_factory=dict)
    rejected_cache_size: int = Field(100_000, ge=0)

    def all_policies(self) -> dict[str, PolicySettings]:
        """Return the shipped policies with the given ones over them."""
        return _shipped_policies() | self.policies


class BruteForceSettings(Section):
    """How many failed logins are borne, and where."""

    per_account_and_ip: PolicySettings = PolicySettings(requests=5, window=timedelta(minutes=5))
    per_account: PolicySettings = PolicySettings(requests=20, window=timedelta(hours=1))
    per_ip: PolicySettings = PolicySettings(requests=50, window=timedelta(minutes=10))
    per_known_device: PolicySettings = PolicySettings(requests=10, window=timedelta(minutes=15))
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
        description="Of an account: half for its known devices together, half for everybody else.",
    )
    ipv4_prefix: int = Field(32, ge=8, le=32)
    ipv6_prefix: int = Field(64, ge=16, le=128)


class RetentionSettings(Section):
    """How long what has ended is kept."""

    sessions: Duration = timedelta(days=30)
    api_keys: Duration = timedelta(days=90)
    revocations: Duration = timedelta(days=31)
    audit_events: Duration = timedelta(days=400)
    devices: Duration = timedelta(days=180)
    messages: Duration = timedelta(days=7)
    unverified_accounts: Duration | None = Field(
        None,
        description="When to remove accounts that nobody verified or logged in to; none: never.",
    )
    interval: Duration = timedelta(minutes=5)
    batch_size: int = Field(500, ge=1, le=10_000)

    @model_validator(mode="after")
    def _use_can_be_told(self) -> Self:
        period, day = self.unverified_accounts, timedelta(days=1)
        if period is not None and not day <= period <= self.audit_events - day:
            raise ValueError("unverified_accounts must be from 1d to 1d less than audit_events")
        return self


class LogSettings(Section):
    """The log: one JSON line an event, or readable lines on a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"
