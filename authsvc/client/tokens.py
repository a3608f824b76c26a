"""Owns the form of access tokens and their claims, read as strictly as the service reads them.

Nothing is verified here: `key_set` verifies signatures, `verifier` judges times, audiences and what
was revoked. Every encoding that is not canonical is rejected, although lenient parsers accept it
(RFC 8725 section 2).
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from authsvc.client import base64url
from authsvc.client.identity import Identity

MAX_TOKEN_BYTES = 8192

# `crit`, `jwk`, `jku`, `x5u`, `x5c`, `b64` and all others are never followed but rejected.
_HEADER_MEMBERS = frozenset({"typ", "alg", "kid"})
_TYPE = "at+jwt"
_ALGORITHMS = frozenset({"ES256", "EdDSA", "RS256", "HS256"})
_MAX_ACTORS = 4
# Exclusive; in the year 2286.
_MAX_TIME = 10_000_000_000
_THUMBPRINT = "x5t#S256"
_THUMBPRINT_BYTES = 32
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_SERVICE = re.compile(r"(spiffe://|dns:)[!-~]{1,2048}", re.ASCII)
_OF_USERS_ONLY = frozenset({"sid", "roles", "permissions", "amr", "auth_time"})


class Malformed(ValueError):
    """The form is not that of an access token; the message says why, without quoting it."""


class Header(NamedTuple):
    """What a token says about its signature."""

    algorithm: str
    key_id: str


class Claims(NamedTuple):
    """What a token says, as numbers and bytes where they are compared on every call.

    Attributes:
        identity: What the token says of its holder.
        issuer: `iss`.
        valid_from: `nbf`.
        issued: `iat`, which may be a little ahead after a revocation.
        expires: `exp`.
        user: `sub` of a user's token, 16 bytes; otherwise empty.
        session: `sid`, 16 bytes; empty in a service's own token.
        thumbprint: The SHA-256 of the certificate that the token is bound to, or empty.
    """

    identity: Identity
    issuer: str
    valid_from: int
    issued: int
    expires: int
    user: bytes
    session: bytes
    thumbprint: bytes


def split(token: str) -> tuple[str, str, str]:
    """Return the three parts of a token; raises Malformed."""
    if len(token) > MAX_TOKEN_BYTES:
        raise Malformed("too long")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise Malformed("not three parts")
    return parts[0], parts[1], parts[2]


def decode(part: str) -> bytes:
    """Return the content of a part; raises Malformed."""
    try:
        return base64url.decode(part)
    except ValueError:
        raise Malformed("not canonical base64url") from None


def read_header(part: str) -> Header:
    """Return the header in the first part of a token.

    Raises:
        Malformed: It is not a JSON object in UTF-8 with the members typ (`at+jwt`, compared
            exactly), alg and kid alone, each once.
    """
    members = _object(decode(part))
    if members.keys() != _HEADER_MEMBERS or members["typ"] != _TYPE:
        raise Malformed("not a header of an access token")
    algorithm, key_id = members["alg"], members["kid"]
    if not isinstance(key_id, str) or not isinstance(algorithm, str):
        raise Malformed("no kid, or no alg")
    if algorithm not in _ALGORITHMS:
        raise Malformed("an unsupported alg")
    return Header(algorithm, key_id)


def read_claims(part: str, key_id: str) -> Claims:
    """Return the claims in the second part of a token that the key `key_id` signed.

    There are two kinds: a user's token, which has a session, and a service's own, which has none
    and is bound to the service's certificate. Claims of the other kind are rejected, unknown ones
    ignored (RFC 7519 section 4).

    Raises:
        Malformed: It is not a JSON object in UTF-8 without duplicate members; or a claim of this
            kind is missing, has the wrong type or form, or belongs to the other kind.
    """
    payload = _object(decode(part))
    try:
        return _user(payload, key_id) if "sid" in payload else _service(payload, key_id)
    except KeyError as error:
        raise Malformed(f"{error} is missing") from None


def _user(payload: Mapping[str, Any], key_id: str) -> Claims:
    issued, expires = _seconds(payload["iat"]), _seconds(payload["exp"])
    not_before, authenticated = _seconds(payload["nbf"]), _seconds(payload["auth_time"])
    subject, session = payload["sub"], payload["sid"]
    user_bytes, session_bytes = _uuid(subject), _uuid(session)
    thumbprint = _thumbprint(payload["cnf"]) if "cnf" in payload else b""
    # By position, as names would take a microsecond longer: the fields in their order.
    identity = Identity(
        "user",
        subject,
        subject,
        "",
        session,
        _texts(payload["roles"]),
        _texts(payload["permissions"]),
        _scopes(payload["scope"]),
        _texts(payload["amr"]),
        _from_timestamp(authenticated, UTC),
        _from_timestamp(issued, UTC),
        _from_timestamp(expires, UTC),
        _actors(payload["act"]) if "act" in payload else (),
        _audiences(payload["aud"]),
        _text(payload["jti"]),
        key_id,
        bool(thumbprint),
    )
    return Claims(
        identity,
        _text(payload["iss"]),
        not_before,
        issued,
        expires,
        user_bytes,
        session_bytes,
        thumbprint,
    )


def _service(payload: Mapping[str, Any], key_id: str) -> Claims:
    if "act" in payload or not _OF_USERS_ONLY.isdisjoint(payload):
        raise Malformed("claims of a user's token in a service's")
    issued, expires = _seconds(payload["iat"]), _seconds(payload["exp"])
    not_before = _seconds(payload["nbf"])
    subject = _service_identity(payload["sub"])
    return Claims(
        identity=Identity(
            kind="service",
            subject=subject,
            user_id="",
            service=subject,
            session_id="",
            roles=(),
            permissions=(),
            scopes=_scopes(payload["scope"]),
            authentication_methods=(),
            authentication_time=None,
            issue_time=_from_timestamp(issued, UTC),
            expire_time=_from_timestamp(expires, UTC),
            actors=(),
            audiences=_audiences(payload["aud"]),
            token_id=_text(payload["jti"]),
            key_id=key_id,
            is_bound=True,
        ),
        issuer=_text(payload["iss"]),
        valid_from=not_before,
        issued=issued,
        expires=expires,
        user=b"",
        session=b"",
        thumbprint=_thumbprint(payload["cnf"]),
    )


def uuid_bytes(text: str) -> bytes:
    """Return the 16 bytes of a UUID in its canonical form."""
    return bytes.fromhex(text.replace("-", ""))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        # As a rule nothing stands around the object, and half of the decoder's work is not needed.
        value, end = _scan_json(text) if text[:1] == "{" else (None, -1)
        if end != len(text):
            value = _decode_json(text)
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("duplicate members")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed("not a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Malformed("lone surrogate") from None
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Malformed("not a list")
    for item in value:
        _text(item)
    return tuple(value)


def _scopes(value: object) -> frozenset[str]:
    if value == "":
        return frozenset()
    scopes = _text(value).split(" ")
    if "" in scopes:
        raise Malformed("blanks that separate nothing")
    return frozenset(scopes)


def _audiences(value: object) -> tuple[str, ...]:
    """Return the values of `aud`: a string, or a non-empty list (RFC 7519 section 4.1.3)."""
    audiences = (_text(value),) if isinstance(value, str) else _texts(value)
    if not audiences:
        raise Malformed("no audience")
    return audiences


def _service_identity(value: object) -> str:
    if not isinstance(value, str) or not _SERVICE.fullmatch(value):
        raise Malformed("not the identity of a service")
    return value


def _thumbprint(value: object) -> bytes:
    """Return the thumbprint in `cnf` (RFC 8705 section 3.1); no other confirmation is supported."""
    if not isinstance(value, dict) or value.keys() != {_THUMBPRINT}:
        raise Malformed("not a certificate confirmation")
    thumbprint = decode(_text(value[_THUMBPRINT]))
    if len(thumbprint) != _THUMBPRINT_BYTES:
        raise Malformed("not a SHA-256")
    return thumbprint


def _actors(value: object, limit: int = _MAX_ACTORS) -> tuple[str, ...]:
    """Return the services of `act`, from the current one to the first (RFC 8693 section 4.1)."""
    if not isinstance(value, dict) or not value.keys() <= {"sub", "act"}:
        raise Malformed("not an actor")
    if limit == 0:
        raise Malformed("too many actors")
    earlier = _actors(value["act"], limit - 1) if "act" in value else ()
    return (_service_identity(value["sub"]), *earlier)


def _uuid(value: object) -> bytes:
    """Return the 16 bytes of a UUID in its canonical form."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise Malformed("not a canonical UUID")
    return uuid_bytes(value)


def _seconds(value: object) -> int:
    """Return a NumericDate in whole seconds; a bool is rejected."""
    if type(value) is not int or not 0 < value < _MAX_TIME:
        raise Malformed("not a time")
    return value


_from_timestamp = datetime.fromtimestamp
_decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
_decode_json, _scan_json = _decoder.decode, _decoder.raw_decode
