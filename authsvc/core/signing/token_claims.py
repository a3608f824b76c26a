"""Owns the claims in the payload of an access token, read strictly.

There are two kinds: a user's token, which has a session, and a service's own, which has none and is
bound to the service's certificate. Every claim of the kind is required, in exactly the form in
which it is issued. Other claims are rejected if they belong to the other kind, and ignored
otherwise (RFC 7519 section 4).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.core.signing.jws import Malformed
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Claims, ServiceClaims

MAX_ACTORS = 4

# Exclusive; in the year 2286.
_MAX_TIME = 10_000_000_000
_THUMBPRINT = "x5t#S256"
_THUMBPRINT_BYTES = 32
_SERVICE = re.compile(r"(spiffe://|dns:)[!-~]{1,2048}", re.ASCII)
_OF_USERS_ONLY = frozenset({"sid", "roles", "permissions", "amr", "auth_time"})


def read(payload: Mapping[str, object]) -> Claims | ServiceClaims:
    """Return the claims of a payload.

    Raises:
        Malformed: One is missing, has the wrong type, or belongs to the other kind of token.
    """
    return _user_claims(payload) if "sid" in payload else _service_claims(payload)


def confirmation(thumbprint: bytes) -> dict[str, str]:
    """Return `cnf` for a token bound to the certificate with this SHA-256 (RFC 8705)."""
    return {_THUMBPRINT: base64url.encode(thumbprint)}


def acting(actors: tuple[str, ...]) -> dict[str, object]:
    """Return `act` for these services, the current one first (RFC 8693 section 4.1)."""
    first, *rest = actors
    return {"sub": first, "act": acting(tuple(rest))} if rest else {"sub": first}


def _user_claims(payload: Mapping[str, object]) -> Claims:
    return Claims(
        **_common(payload),
        subject=UserId(_uuid(_member(payload, "sub"))),
        session_id=SessionId(_uuid(_member(payload, "sid"))),
        roles=_texts(_member(payload, "roles")),
        permissions=_texts(_member(payload, "permissions")),
        authentication_methods=_texts(_member(payload, "amr")),
        authentication_time=_time(_member(payload, "auth_time")),
        certificate_thumbprint=_thumbprint(payload["cnf"]) if "cnf" in payload else b"",
        actors=_actors(payload["act"]) if "act" in payload else (),
    )


def _service_claims(payload: Mapping[str, object]) -> ServiceClaims:
    if "act" in payload or not _OF_USERS_ONLY.isdisjoint(payload):
        raise Malformed("claims of a user's token in a service's")
    return ServiceClaims(
        **_common(payload),
        subject=_service(_member(payload, "sub")),
        certificate_thumbprint=_thumbprint(_member(payload, "cnf")),
    )


def _common(payload: Mapping[str, object]) -> dict[str, Any]:
    scope = _member(payload, "scope")
    return {
        "issuer": _text(_member(payload, "iss")),
        "audiences": _audiences(_member(payload, "aud")),
        "expire_time": _time(_member(payload, "exp")),
        "issue_time": _time(_member(payload, "iat")),
        "not_before_time": _time(_member(payload, "nbf")),
        "token_id": _text(_member(payload, "jti")),
        "scopes": () if scope == "" else _texts(_text(scope).split(" ")),
    }


def _member(payload: Mapping[str, object], name: str) -> object:
    if name not in payload:
        raise Malformed(f"{name} is missing")
    return payload[name]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed("not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed("lone surrogate") from None
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Malformed("not a list")
    return tuple(_text(item) for item in value)


def _audiences(value: object) -> tuple[str, ...]:
    """Return the values of `aud`: a string, or a non-empty list (RFC 7519 section 4.1.3)."""
    audiences = (_text(value),) if isinstance(value, str) else _texts(value)
    if not audiences:
        raise Malformed("no audience")
    return audiences


def _service(value: object) -> str:
    text = _text(value)
    if not _SERVICE.fullmatch(text):
        raise Malformed("not the identity of a service")
    return text


def _thumbprint(value: object) -> bytes:
    """Return the thumbprint in `cnf` (RFC 8705 section 3.1); no other confirmation is supported."""
    if not isinstance(value, dict) or value.keys() != {_THUMBPRINT}:
        raise Malformed("not a certificate confirmation")
    try:
        thumbprint = base64url.decode(_text(value[_THUMBPRINT]))
    except ValueError:
        raise Malformed("not canonical base64url") from None
    if len(thumbprint) != _THUMBPRINT_BYTES:
        raise Malformed("not a SHA-256")
    return thumbprint


def _actors(value: object, limit: int = MAX_ACTORS) -> tuple[str, ...]:
    """Return the services of `act`, from the current one to the first (RFC 8693 section 4.1)."""
    if not isinstance(value, dict) or not value.keys() <= {"sub", "act"}:
        raise Malformed("not an actor")
    if limit == 0:
        raise Malformed("too many actors")
    earlier = _actors(value["act"], limit - 1) if "act" in value else ()
    return (_service(_member(value, "sub")), *earlier)


def _uuid(value: object) -> UUID:
    text = _text(value)
    try:
        parsed = UUID(text)
    except ValueError:
        raise Malformed("not a UUID") from None
    if str(parsed) != text:
        raise Malformed("not a canonical UUID")
    return parsed


def _time(value: object) -> datetime:
    """Return the time of a NumericDate in whole seconds; a bool is rejected."""
    if type(value) is not int or not 0 < value < _MAX_TIME:
        raise Malformed("not a time")
    return datetime.fromtimestamp(value, UTC)
