"""Owns what the payload of an access token has to hold, in its strictest reading.

There are two kinds: a user's token, which has a session, and a service's own, which has none and is
bound to the service's certificate. Every claim of the kind is required, in the one form it is
issued in; whatever else stands there is refused if it is a claim of the other kind, and ignored
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
        Malformed: One is missing, of the wrong kind, or of the other kind of token.
    """
    return _user_claims(payload) if "sid" in payload else _service_claims(payload)


def confirmation(thumbprint: bytes) -> dict[str, str]:
    """Return `cnf` for a token that is bound to the certificate with this SHA-256 (RFC 8705)."""
    return {_THUMBPRINT: base64url.encode(thumbprint)}


def acting(actors: tuple[str, ...]) -> dict[str, object]:
    """Return `act` for these services, the present one first (RFC 8693 section 4.1)."""
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
        raise Malformed("a service's token has no claims of a user's")
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
        raise Malformed("half a surrogate pair") from None
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Malformed("not a list")
    return tuple(_text(item) for item in value)


def _audiences(value: object) -> tuple[str, ...]:
    """Return the values of `aud`: one text, or a list of at least one (RFC 7519 section 4.1.3)."""
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
    """Return the certificate of `cnf` (RFC 8705 section 3.1); no other way to be bound is known."""
    if not isinstance(value, dict) or value.keys() != {_THUMBPRINT}:
        raise Malformed("not a confirmation by a certificate")
    try:
        thumbprint = base64url.decode(_text(value[_THUMBPRINT]))
    except ValueError:
        raise Malformed("not canonical base64url") from None
    if len(thumbprint) != _THUMBPRINT_BYTES:
        raise Malformed("not a SHA-256")
    return thumbprint


def _actors(value: object, most: int = MAX_ACTORS) -> tuple[str, ...]:
    """Return the services of `act`, from the present one to the first (RFC 8693 section 4.1)."""
    if not isinstance(value, dict) or not value.keys() <= {"sub", "act"}:
        raise Malformed("not an actor")
    if most == 0:
        raise Malformed("too many actors")
    earlier = _actors(value["act"], most - 1) if "act" in value else ()
    return (_service(_member(value, "sub")), *earlier)


def _uuid(value: object) -> UUID:
    text = _text(value)
    try:
        parsed = UUID(text)
    except ValueError:
        raise Malformed("not a UUID") from None
    if str(parsed) != text:
        raise Malformed("not a UUID's canonical spelling")
    return parsed


def _time(value: object) -> datetime:
    """Return the time of a NumericDate; only whole seconds, which a bool is not."""
    if type(value) is not int or not 0 < value < _MAX_TIME:
        raise Malformed("not a time")
    return datetime.fromtimestamp(value, UTC)
