"""Owns the published keys that verify signatures: which are trusted, and when to fetch them again.

A key has one algorithm for life, whatever a token's header says (RFC 8725 section 3.1). PyJWT reads
the keys, and cryptography verifies.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

_log = logging.getLogger("authsvc.client")

# By algorithm, what its keys are. A symmetric key is never published.
_KINDS = {"ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519"), "RS256": ("RSA", None)}
_ECDSA, _PKCS1, _SHA256 = ec.ECDSA(SHA256()), padding.PKCS1v15(), SHA256()
_SMALLEST_RSA_BITS = 2048
# Seconds. A set is cached for as long as the service says, within these bounds; and if it can't be
# fetched then, for a day more: what is revoked meanwhile comes by another way.
_SHORTEST, _LONGEST = 5.0, 3600.0
_GRACE = 86_400.0
# Seconds between the beginnings of two fetches for the sake of unknown ids.
_COOL_DOWN = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class VerifyingKey:
    """Verifies signatures of the key `key_id`, by its one algorithm."""

    key_id: str
    algorithm: str
    verify: Callable[[bytes, bytes], bool] = field(repr=False)


class KeySet:
    """The keys of the last good answer, without those that were revoked.

    Times are those of `freshness.elapsed`, except for the expiry of a revocation.

    Attributes:
        are_all: Whether there are no others: none that is symmetric, and so is never published.
    """

    def __init__(self) -> None:
        self.are_all = False
        self._keys: dict[str, VerifyingKey] = {}
        self._revoked: dict[str, float] = {}
        self._expires = self._unusable_from = float("-inf")
        # When the last fetch began, and the last one that succeeded.
        self._began = self._known_at = float("-inf")
        # Keys are fetched in another thread than the one that hears of revocations.
        self._writing = threading.Lock()

    def find(self, key_id: str) -> VerifyingKey | None:
        """Return the key with this id if it is trusted."""
        return self._keys.get(key_id)

    def is_usable(self, now: float) -> bool:
        """Return whether keys have been fetched, not too long ago."""
        return now < self._unusable_from

    def is_revoked(self, key_id: str) -> bool:
        """Return whether the key with this id was revoked."""
        return key_id in self._revoked

    def may_exist(self, now: float) -> bool:
        """Return whether the service may have a key that is not here: none was fetched just now."""
        return now >= self._known_at + _COOL_DOWN

    def may_fetch(self, now: float) -> bool:
        """Return whether to fetch the keys for an unknown id.

        A flood of made-up ids costs one fetch in two seconds.
        """
        return now >= self._began + _COOL_DOWN

    def begin(self, now: float) -> None:
        """Take note that a fetch begins."""
        self._began = now

    def install(self, jwks: str, seconds: float, now: float, *, are_all: bool = False) -> float:
        """Replace the keys by those of a JSON Web Key Set that may be cached for `seconds`.

        Return when they are due to be fetched again.

        An answer from before a revocation doesn't bring the key back.

        Raises:
            ValueError: It is not a key set; the keys stay as they are.
        """
        keys = _read(jwks)
        with self._writing:
            # The same key stays the same object: what it verified needs not be verified again.
            self._keys = {
                key_id: self._keys.get(key_id) or key
                for key_id, key in keys.items()
                if key_id not in self._revoked
            }
        self.are_all = are_all
        self._expires = now + min(max(seconds, _SHORTEST), _LONGEST)
        self._unusable_from = self._expires + _GRACE
        self._known_at = self._began
        return self._expires

    def revoke(self, key_id: str, expires: float) -> None:
        """Trust a key no longer; `expires` is when its last token would have expired."""
        with self._writing:
            self._revoked[key_id] = max(expires, self._revoked.get(key_id, expires))
            self._keys = {name: key for name, key in self._keys.items() if name != key_id}

    def lose(self) -> None:
        """Count as not fetched, and not to be fetched, from now on."""
        self._unusable_from = float("-inf")

    def sweep(self, now: float) -> None:
        """Forget the revocations that have expired by `now`, in seconds since 1970."""
        if any(expires <= now for expires in self._revoked.values()):
            with self._writing:
                self._revoked = {name: end for name, end in self._revoked.items() if end > now}


def _read(jwks: str) -> dict[str, VerifyingKey]:
    """Return the keys of a set by their ids, without those of other kinds (RFC 7517 section 5)."""
    document = json.loads(jwks)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("not a JSON Web Key Set")  # noqa: TRY004 - of the text
    keys: dict[str, VerifyingKey] = {}
    for member in members:
        try:
            key = _key(member)
        except (ValueError, TypeError, jwt.InvalidKeyError) as error:
            _log.warning("a published key can't be used: %s", error)
            continue
        if key is not None:
            keys.setdefault(key.key_id, key)
    return keys


def _key(member: Any) -> VerifyingKey | None:
    """Return a key, or None if it is of a kind that signs no access tokens."""
    if not isinstance(member, dict) or member.get("use", "sig") != "sig":
        return None
    key_id, algorithm = member.get("kid"), member.get("alg")
    if not isinstance(key_id, str) or not isinstance(algorithm, str) or algorithm not in _KINDS:
        return None
    if (member.get("kty"), member.get("crv")) != _KINDS[algorithm]:
        raise ValueError(f"its kty and crv don't fit {algorithm}")
    public: Any = (
        jwt.PyJWS()
        .get_algorithm_by_name(algorithm)
        .from_jwk({name: value for name, value in member.items() if name not in _PRIVATE})
    )
    if algorithm == "RS256" and public.key_size < _SMALLEST_RSA_BITS:
        raise ValueError(f"an RSA key of less than {_SMALLEST_RSA_BITS} bits")
    return VerifyingKey(key_id, algorithm, partial(_VERIFY[algorithm], public))


# Should a private key have been published by mistake, it is used as a public one.
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})


def _verify_es256(public: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
    """Verify a signature of two numbers of 32 bytes (RFC 7518 section 3.4)."""
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        public.verify(encode_dss_signature(r, s), message, _ECDSA)
    except InvalidSignature:
        return False
    return True


def _verify_eddsa(public: ed25519.Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _verify_rs256(public: rsa.RSAPublicKey, message: bytes, signature: bytes) -> bool:
    try:
        public.verify(signature, message, _PKCS1, _SHA256)
    except InvalidSignature:
        return False
    return True


_VERIFY: dict[str, Callable[[Any, bytes, bytes], bool]] = {
    "ES256": _verify_es256,
    "EdDSA": _verify_eddsa,
    "RS256": _verify_rs256,
}
