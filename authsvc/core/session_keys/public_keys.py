"""Owns which public keys can be attested, and their canonical form.

Only public keys: one that comes with a private member is refused before anything else is done with
it, and nothing of it is quoted, logged or stored.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from nacl.bindings import crypto_core_ed25519_is_valid_point

from authsvc.core.lib import base64url
from authsvc.core.signing.jws import Malformed, json_object
from authsvc.errors import FieldInvalid
from authsvc.models.session_keys import PublicKey, PublicKeyKind

MAX_JWK_BYTES = 4_096
MAX_FINGERPRINT_BYTES = 256

# RFC 7518 section 6 and RFC 8037 section 2: private parts, and the key itself of kind "oct".
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# RFC 7517 section 4 and Web Cryptography: what exported keys also have. It is not attested.
_IGNORED = frozenset({"kid", "use", "alg", "key_ops", "ext"})
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int]] = MappingProxyType(
    {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48)}
)
_OKP_BYTES = 32
_X25519_PRIME = 2**255 - 19
_RSA_BITS = range(2_048, 4_097)
_RSA_EXPONENT = 65_537

# RFC 8122 section 5. SHA-1, MD5 and MD2, which it also names, no longer keep collisions away.
_FINGERPRINT_BYTES: Mapping[str, int] = MappingProxyType(
    {"sha-256": 32, "sha-384": 48, "sha-512": 64}
)
_FINGERPRINT = re.compile(
    r"(?P<hash>[A-Za-z0-9-]{1,16}) (?P<bytes>[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*)", re.ASCII
)


def parse_jwk(text: str, field: str) -> PublicKey:
    """Return the public key in a JWK, in the canonical form of RFC 7638 section 3.

    Raises:
        FieldInvalid: It is not a JWK, not of a supported kind, or no valid key, or it is private.
    """
    try:
        members = json_object(text.encode())
    except Malformed:
        raise FieldInvalid(field, "must be a JSON object without duplicate members") from None
    if not _PRIVATE.isdisjoint(members):
        raise FieldInvalid(field, "must be a public key, without any private member")
    kind = members.get("kty")
    canonical = _KINDS.get(kind) if isinstance(kind, str) else None
    if canonical is None:
        raise FieldInvalid(field, 'must have the "kty" OKP, EC or RSA')
    given = {name: value for name, value in members.items() if name not in _IGNORED}
    try:
        public = canonical(given)
    except ValueError as error:
        raise FieldInvalid(field, str(error)) from None
    if given.keys() != public.keys():
        raise FieldInvalid(field, "has members that don't belong to a key of this kind")
    return PublicKey(PublicKeyKind.JWK, json.dumps(public, sort_keys=True, separators=(",", ":")))


def parse_fingerprint(text: str, field: str) -> PublicKey:
    """Return the fingerprint of a DTLS certificate, its hash in lower case, its bytes in upper.

    Raises:
        FieldInvalid: It is not one of RFC 8122, or its hash is too weak or has another length.
    """
    match = _FINGERPRINT.fullmatch(text)
    if match is None:
        raise FieldInvalid(field, 'must be like "sha-256 AA:BB:…" (RFC 8122)')
    name = match["hash"].lower()
    if name not in _FINGERPRINT_BYTES:
        raise FieldInvalid(field, "must use sha-256, sha-384 or sha-512")
    length = _FINGERPRINT_BYTES[name]
    if len(match["bytes"]) != 3 * length - 1:
        raise FieldInvalid(field, f"must have {length} bytes for {name}")
    return PublicKey(PublicKeyKind.DTLS_FINGERPRINT, f"{name} {match['bytes'].upper()}")


def _okp(members: Mapping[str, Any]) -> dict[str, str]:
    curve = members.get("crv")
    is_key = _OKP_CURVES.get(curve) if isinstance(curve, str) else None
    if is_key is None:
        raise ValueError('must have the "crv" X25519 or Ed25519')
    x = _bytes(members, "x")
    if len(x) != _OKP_BYTES or not is_key(x):
        raise ValueError(f'has an "x" that is not a key of {curve}')
    return {"kty": "OKP", "crv": curve, "x": members["x"]}


def _is_x25519(raw: bytes) -> bool:
    """Return whether it is the canonical form of a key with which only two can agree on a secret.

    With a point of small order, everybody knows what is agreed on (RFC 7748 section 6.1).
    """
    if int.from_bytes(raw, "little") >= _X25519_PRIME:
        return False
    try:
        x25519.X25519PrivateKey.generate().exchange(x25519.X25519PublicKey.from_public_bytes(raw))
    except ValueError:
        return False
    return True


def _is_ed25519(raw: bytes) -> bool:
    return bool(crypto_core_ed25519_is_valid_point(raw))


_OKP_CURVES: Mapping[str, Callable[[bytes], bool]] = MappingProxyType(
    {"X25519": _is_x25519, "Ed25519": _is_ed25519}
)


def _ec(members: Mapping[str, Any]) -> dict[str, str]:
    name = members.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        raise ValueError('must have the "crv" P-256 or P-384')
    curve, length = _CURVES[name]
    x, y = _bytes(members, "x"), _bytes(members, "y")
    if not len(x) == len(y) == length or not _is_point(curve, x, y):
        raise ValueError(f"is not a point of {name}")
    return {"kty": "EC", "crv": name, "x": members["x"], "y": members["y"]}


def _is_point(curve: ec.EllipticCurve, x: bytes, y: bytes) -> bool:
    try:
        ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    except ValueError:
        return False
    return True


def _rsa(members: Mapping[str, Any]) -> dict[str, str]:
    n, e = _bytes(members, "n"), _bytes(members, "e")
    modulus, exponent = int.from_bytes(n), int.from_bytes(e)
    # Leading zeros would give one key several forms (RFC 7518 section 6.3.1.1).
    if n[0] == 0 or modulus.bit_length() not in _RSA_BITS or modulus % 2 == 0:
        raise ValueError(f'must have an "n" of {_RSA_BITS.start} to {_RSA_BITS.stop - 1} bits')
    if e[0] == 0 or exponent != _RSA_EXPONENT:
        raise ValueError(f'must have the "e" {_RSA_EXPONENT} ("AQAB")')
    rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return {"kty": "RSA", "n": members["n"], "e": members["e"]}


def _bytes(members: Mapping[str, Any], name: str) -> bytes:
    """Return a member's bytes, at least one."""
    value = members.get(name)
    try:
        raw = base64url.decode(value) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if not raw:
        raise ValueError(f'must have "{name}" in canonical base64url, without padding')
    return raw


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, str]]] = MappingProxyType(
    {"OKP": _okp, "EC": _ec, "RSA": _rsa}
)
