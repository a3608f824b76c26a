"""Owns the verification of id_tokens (OpenID Connect Core 1.0, section 3.1.3.7)."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jwt

# Asymmetric ones only, so that a public key can't be used to sign.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_LEEWAY = 60.0
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]


class IdTokenInvalid(Exception):
    """An id_token can't be trusted; the message says why, without its content."""


class KeyUnknown(IdTokenInvalid):
    """The id_token is signed with a key that is not among the provider's."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The values that an id_token must have."""

    issuer: str
    client_id: str
    nonce: str = field(repr=False)
    now: datetime


def verify(token: str, keys: Sequence[Mapping[str, Any]], expected: Expected) -> Mapping[str, Any]:
    """Return the claims of an id_token; `keys` are the provider's JSON Web Keys.

    Raises:
        KeyUnknown: No key has its `kid`.
        IdTokenInvalid: Its signature or one of its claims is invalid.
    """
    try:
        key = _key(jwt.get_unverified_header(token), keys)
        # Times are checked below, by the service's clock.
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=expected.issuer,
            audience=expected.client_id,
            options={
                "require": _REQUIRED,
                "verify_signature": True,
                "verify_iss": True,
                "verify_aud": True,
                "verify_sub": True,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
                "enforce_minimum_key_length": True,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise IdTokenInvalid(type(error).__name__) from None
    _check_party(claims, expected.client_id)
    _check_times(claims, expected.now.timestamp())
    nonce = claims["nonce"]
    if not isinstance(nonce, str) or not hmac.compare_digest(
        nonce.encode("utf-8", "surrogatepass"), expected.nonce.encode()
    ):
        raise IdTokenInvalid("nonce")
    return claims


def _key(header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> jwt.PyJWK:
    """Return the key that the header names, bound to the header's algorithm."""
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS or "crit" in header:
        raise IdTokenInvalid("alg or crit")
    if not isinstance(key_id, str) or not key_id:
        raise IdTokenInvalid("kid")
    found = [key for key in keys if key.get("kid") == key_id]
    if not found:
        raise KeyUnknown("kid")
    key = found[0]
    if len(found) > 1 or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        raise IdTokenInvalid("key")
    return jwt.PyJWK(dict(key), algorithm)


def _check_party(claims: Mapping[str, Any], client_id: str) -> None:
    audience = claims["aud"]
    several = isinstance(audience, list) and len(audience) > 1
    if claims.get("azp", None if several else client_id) != client_id:
        raise IdTokenInvalid("azp")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    expire, issue, start = claims["exp"], claims["iat"], claims.get("nbf", 0)
    for time in (expire, issue, start):
        if isinstance(time, bool) or not isinstance(time, (int, float)):
            raise IdTokenInvalid("time")
    # The leeway is applied to the service's own time, as arithmetic could fail with some of the
    # provider's; NaN fails both comparisons.
    latest, earliest = now + _LEEWAY, now - _LEEWAY
    if not (expire > earliest and issue <= latest and start <= latest):
        raise IdTokenInvalid("time")
