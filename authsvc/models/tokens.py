"""Owns tokens, their claims, and the reasons for which one is not active."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from authsvc.models.ids import SessionId, UserId
from authsvc.models.revocations import RevocationCursor


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that a login returns.

    `session_token`, `csrf_token` and `set_cookie`, a header that carries the session token, are ""
    after a refresh; `refresh_token` is "" for an impersonated session. `revoked` names what the
    login ended, None if nothing.
    """

    access_token: str = field(repr=False)
    access_token_expire_time: datetime
    refresh_token: str = field(repr=False)
    refresh_token_expire_time: datetime
    session_id: SessionId
    session_token: str = field(repr=False)
    csrf_token: str = field(repr=False)
    user_id: UserId
    set_cookie: str = field(repr=False)
    revoked: RevocationCursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """The claims of every verified access token (RFC 9068); times are aware, in UTC.

    `certificate_thumbprint` is the SHA-256 of the client certificate that the token is bound to
    (RFC 8705), or b"" if there is none. `actors` are the services that act for the subject, the
    current one first (`act`, RFC 8693).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims(TokenClaims):
    """The claims of a user's verified access token."""

    subject: UserId
    session_id: SessionId
    roles: tuple[str, ...]
    permissions: tuple[str, ...]
    authentication_methods: tuple[str, ...]
    authentication_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceClaims(TokenClaims):
    """The claims of a calling service's verified access token; `subject` is its identity."""

    subject: str


class InactiveReason(StrEnum):
    """Why a token or session is not active; the names match the proto's enum."""

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
    TOKEN_OUTDATED = "TOKEN_OUTDATED"  # noqa: S105 - a reason's name
