"""Owns the format of a JSON Web Signature in compact serialization, read strictly.

Only the format: signatures are verified in `jwk.py`, and payloads are checked by the reader. Every
encoding that is not canonical, though lenient parsers accept it, is rejected here before any key is
looked up (RFC 8725 section 2; ASVS 1.5.3, 9.1).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from authsvc.core.lib import base64url
from authsvc.core.signing.jwk import ALGORITHMS, SigningKey
from authsvc.core.signing.signer import Signer

MAX_TOKEN_BYTES = 8192

# `crit`, `jwk`, `jku`, `x5u`, `x5c`, `b64` and all others are never followed but rejected.
_HEADER_MEMBERS = frozenset({"typ", "alg", "kid"})


class Malformed(ValueError):
    """The format is not that of our tokens; the message says why, without quoting the token."""


@dataclass(frozen=True, slots=True)
class CompactJws:
    """A parsed token, with nothing verified."""

    algorithm: str
    key_id: str
    payload: dict[str, Any]
    signing_input: bytes
    signature: bytes


async def sign(signer: Signer, key: SigningKey, typ: str, payload: Mapping[str, object]) -> str:
    """Return `payload` signed by `key` in compact serialization, with `typ` in the header.

    Raises:
        StoreUnavailable: The key is in an HSM that did not answer.
    """
    signing_input = input_of(key, typ, payload)
    signature = await signer.sign(key, signing_input.encode())
    return f"{signing_input}.{base64url.encode(signature)}"


def input_of(key: SigningKey, typ: str, payload: Mapping[str, object]) -> str:
    """Return what the key has to sign: header and payload."""
    header = {"typ": typ, "alg": key.algorithm, "kid": key.key_id}
    return f"{_segment(header)}.{_segment(payload)}"


def parse(token: str, typ: str) -> CompactJws:
    """Parse a token of the type `typ`.

    Raises:
        Malformed: It exceeds 8 KiB; it is not three non-empty parts of canonical base64url; header
            or payload is not a JSON object in UTF-8 without duplicate members; the header has
            members other than typ, alg and kid, a different typ (compared exactly), or an
            unsupported alg.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Malformed("too long")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise Malformed("not three parts")
    try:
        header, payload, signature = map(base64url.decode, parts)
    except ValueError:
        raise Malformed("not canonical base64url") from None
    members = json_object(header)
    if members.keys() != _HEADER_MEMBERS or members["typ"] != typ:
        raise Malformed("not a header of this kind of token")
    algorithm, key_id = members["alg"], members["kid"]
    if not isinstance(key_id, str) or algorithm not in ALGORITHMS:
        raise Malformed("no kid, or an unsupported alg")
    return CompactJws(
        algorithm=algorithm,
        key_id=key_id,
        payload=json_object(payload),
        signing_input=token[: token.rindex(".")].encode(),
        signature=signature,
    )


def _segment(value: Mapping[str, object]) -> str:
    return base64url.encode(_encoder.encode(value).encode())


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        Malformed: It is not one in UTF-8, or it has duplicate members.
    """
    try:
        value = _decoder.decode(raw.decode("utf-8"))
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


_encoder = json.JSONEncoder(separators=(",", ":"))
_decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
