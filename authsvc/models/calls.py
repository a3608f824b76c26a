"""Owns the identity of a call: the calling service, and the end user on whose behalf it calls."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """A role of a calling service, which says what it may do; settings map identities to roles."""

    APP = "app"
    EDGE = "edge"
    ISSUER = "issuer"
    ADMIN = "admin"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Caller:
    """A calling service, identified by its client certificate.

    `identity` is a SPIFFE id or `dns:name`, `thumbprint` the certificate's SHA-256 (RFC 8705), and
    `certificate_expire_time` when it expires. The caller may request tokens for `audiences` and
    `scopes`.
    """

    identity: str
    roles: frozenset[Role]
    thumbprint: bytes
    certificate_expire_time: datetime | None = None
    audiences: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ClientContext:
    """The end user's client as reported by an allowed caller; None or "" means unknown."""

    ip: str | None = None
    user_agent: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """The caller's identity and the request id, for audit events."""

    request_id: str
    caller: str
