"""Owns who calls: the calling service, and the end user whom it calls for."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


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
