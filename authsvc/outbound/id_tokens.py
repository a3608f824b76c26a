"""Owns the verification of id_tokens (OpenID Connect Core 1.0, section 3.1.3.7)."""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jwt

_RSA = (("RSA", None),)
# The key type and curve of each accepted algorithm (RFC 7518, RFC 8037). Asymmetric ones only, so
# that a public key can't be used to sign.
_KEY_TYPES: Mapping[str, Sequence[tuple[str, str | None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    "ES256": (("EC", "P-256"),),
    "ES384": (("EC", "P-384"),),
    "ES512": (("EC", "P-521"),),
    "EdDSA": (("OKP", "Ed25519"), ("OKP", "Ed448")),
}
# More keys than any provider has that are suitable for one token.
_MAX_KEYS = 8
_LEEWAY = 60.0
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]


class IdTokenInvalid(Exception):
    """An id_token can't be trusted; the message says why, without its content."""


class KeyUnknown(IdTokenInvalid):
    """The id_token is signed with a key that is not among the provider's known ones."""


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
        KeyUnknown: None of the keys is the one that it is signed with.
        IdTokenInvalid: Its signature or one of its claims is invalid.
    """
    try:
        claims = _signed_claims(token, keys, expected)
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


def _signed_claims(
    token: str, keys: Sequence[Mapping[str, Any]], expected: Expected
) -> Mapping[str, Any]:
    header = jwt.get_unverified_header(token)
    algorithm = header.get("alg")
    if algorithm not in _KEY_TYPES or "crit" in header:
        raise IdTokenInvalid("alg or crit")
    for key in _candidates(header, keys):
        try:
            # Times are checked by the caller, by the service's clock.
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
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
            # Signed with another key, or this one is too short.
            continue
        return claims
    raise KeyUnknown("no key of this kid, type, use and algorithm has signed it")


def _candidates(
    header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]
) -> Iterator[jwt.PyJWK]:
    """Yield the keys that the token may be signed with: by use, type and algorithm, then by kid.

    Providers publish keys of one kid for several algorithms and uses, and keys without a kid; the
    kid only narrows the choice, since all keys of the set are the provider's.
    """
    algorithm, key_id = header["alg"], header.get("kid")
    suitable = [key for key in keys if _is_suitable(key, algorithm)]
    if key_id:
        suitable = [key for key in suitable if key.get("kid") in (key_id, None)]
        # The named ones first.
        suitable.sort(key=lambda key: key.get("kid") is None)
    for key in suitable[:_MAX_KEYS]:
        try:
            found = jwt.PyJWK(dict(key), algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            # Malformed; the others may not be.
            continue
        yield found


def _is_suitable(key: Mapping[str, Any], algorithm: str) -> bool:
    """Return whether a key is for signatures by this algorithm; keys of unknown kinds are not."""
    operations = key.get("key_ops")
    return (
        (key.get("kty"), key.get("crv")) in _KEY_TYPES[algorithm]
        and key.get("use") in ("sig", None)
        and key.get("alg") in (algorithm, None)
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )


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
