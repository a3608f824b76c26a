"""Owns the domain's values: frozen, typed, and the same in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, NewType, Protocol, TypeAlias
from uuid import UUID

UserId = NewType("UserId", UUID)
SessionId = NewType("SessionId", UUID)
FactorId = NewType("FactorId", UUID)
ApiKeyId = NewType("ApiKeyId", UUID)


class Clock(Protocol):
    """Tells the time; injected so that tests can move it."""

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""


class Role(StrEnum):
    """What a calling service may do (settings map identities to roles)."""

    APP = "app"
    EDGE = "edge"
    ISSUER = "issuer"
    ADMIN = "admin"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Caller:
    """A calling service, known by its client certificate.

    `identity` is a SPIFFE id or `dns:name`; `thumbprint` the certificate's SHA-256 (RFC 8705), and
    `certificate_expire_time` its end. `audiences` and `scopes` are what it may ask tokens for.
    """

    identity: str
    roles: frozenset[Role]
    thumbprint: bytes
    certificate_expire_time: datetime | None = None
    audiences: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ClientContext:
    """The end user's side of a request, as told by an allowed caller; None or "" is unknown."""

    ip: str | None = None
    user_agent: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """Who called and under which request id: what an audit event needs of the transport."""

    request_id: str
    caller: str


class UserStatus(StrEnum):
    """Whether an account may be used."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class User:
    """An account, without its secrets."""

    user_id: UserId
    email: str
    display_name: str
    roles: tuple[str, ...]
    status: UserStatus
    create_time: datetime
    email_verify_time: datetime | None = None
    has_second_factor: bool = False


class RevokeReason(StrEnum):
    """Why a session was ended before it expired."""

    LOGOUT = "logout"
    REVOKED = "revoked"
    REPLACED = "replaced"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 - a reason's name
    USER_DISABLED = "user_disabled"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a reason's name
    OWNER_ARRIVED = "owner_arrived"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Session:
    """A session, without its secret; `csrf_hash` is the SHA-256 of its anti-forgery token.

    Compared by identity, so that what is derived from a cached one can be kept beside it.

    `refresh_counter` is the number of the one refresh token that is current; `user_status` and
    `user_roles` are the owner's when the row was read.
    """

    session_id: SessionId
    user_id: UserId
    create_time: datetime
    last_use_time: datetime
    authentication_time: datetime
    idle_expire_time: datetime
    absolute_expire_time: datetime
    client: ClientContext
    authentication_methods: tuple[str, ...]
    csrf_hash: bytes = field(repr=False)
    refresh_counter: int
    revoke_time: datetime | None
    revoke_reason: RevokeReason | None
    user_status: UserStatus
    user_roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login gives; `session_token` and `csrf_token` are empty after a refresh."""

    access_token: str = field(repr=False)
    access_token_expire_time: datetime
    refresh_token: str = field(repr=False)
    refresh_token_expire_time: datetime
    session_id: SessionId
    session_token: str = field(repr=False)
    csrf_token: str = field(repr=False)
    user_id: UserId


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A user's API key without its secret; `prefix` is its beginning, `policy` "" is no limit."""

    key_id: ApiKeyId
    user_id: UserId
    name: str
    prefix: str
    scopes: tuple[str, ...]
    policy: str
    create_time: datetime
    expire_time: datetime
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class TotpEnrollment:
    """What an authenticator app needs to know: the secret in Base32, and the same as an address."""

    factor_id: FactorId
    secret: str = field(repr=False)
    otpauth_uri: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MfaChallenge:
    """A login that needs a second factor: any one of `methods`.

    `totp_enrollment` is set if the user has to enrol one to log in; `passkey_options` is what the
    user's passkeys are to sign (WebAuthn, JSON), "" if there are none.
    """

    mfa_token: str = field(repr=False)
    methods: tuple[str, ...]
    expire_time: datetime
    totp_enrollment: TotpEnrollment | None = None
    passkey_options: str = ""


LoginOutcome: TypeAlias = Tokens | MfaChallenge


class Delivery(StrEnum):
    """What becomes of a code that is made; RETURN is for callers with the role issuer."""

    SEND = "send"
    RETURN = "return"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True, kw_only=True)
class TokenClaims:
    """What every verified access token says (RFC 9068); times are aware, in UTC.

    `certificate_thumbprint` is the SHA-256 of the client certificate that the token is bound to
    (RFC 8705), b"": none. `actors` are the services that act in the subject's name, the present one
    first (`act`, RFC 8693). Compared by identity, as Session.
    """

    issuer: str
    audiences: tuple[str, ...]
    expire_time: datetime
    issue_time: datetime
    not_before_time: datetime
    token_id: str
    scopes: tuple[str, ...]
    certificate_thumbprint: bytes = b""
    actors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Claims(TokenClaims):
    """What a verified access token of a user says."""

    subject: UserId
    session_id: SessionId
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    authentication_methods: tuple[str, ...]
    authentication_time: datetime


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ServiceClaims(TokenClaims):
    """What a verified access token of a calling service says; `subject` is its identity."""

    subject: str


class InactiveReason(StrEnum):
    """Why a token or session is not active; the names are those of the proto's enum."""

    MALFORMED = "MALFORMED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    ISSUER_MISMATCH = "ISSUER_MISMATCH"
    AUDIENCE_MISMATCH = "AUDIENCE_MISMATCH"
    SCOPE_MISSING = "SCOPE_MISSING"
    SESSION_REVOKED = "SESSION_REVOKED"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_UNKNOWN = "SESSION_UNKNOWN"
    USER_DISABLED = "USER_DISABLED"
    IP_MISMATCH = "IP_MISMATCH"
    USER_AGENT_MISMATCH = "USER_AGENT_MISMATCH"
    CERTIFICATE_MISMATCH = "CERTIFICATE_MISMATCH"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_REVOKED = "KEY_REVOKED"
    RATE_LIMITED = "RATE_LIMITED"


class Algorithm(StrEnum):
    """How a rate-limit policy counts."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - an algorithm's name
    SLIDING_WINDOW = "sliding_window"
    FIXED_WINDOW = "fixed_window"


@dataclass(frozen=True, slots=True)
class Policy:
    """A named limit: `requests` per `window`, and at most `burst` in any one second (0: no cap)."""

    name: str
    requests: int
    window: timedelta
    burst: int = 0
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET


class Charge(NamedTuple):
    """One thing to be counted: `cost` units of `key` under `policy`.

    A tuple, as a frozen dataclass takes four times as long to make, and a batch holds a thousand.
    """

    policy: str
    key: str
    cost: int = 1


class Verdict(NamedTuple):
    """How a key stands with a policy; times in seconds.

    `retry_after` is 0 if the charge fits and None if it never will. A tuple, as `Charge`.
    """

    policy: str
    key: str
    allowed: bool
    limit: int
    remaining: int
    retry_after: float | None
    reset_after: float


class CheckResult(NamedTuple):
    """A check's outcome: `allowed` only if all of its charges are."""

    allowed: bool
    verdicts: Sequence[Verdict]
