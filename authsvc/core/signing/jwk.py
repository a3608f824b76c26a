"""Owns the keys that sign and verify tokens: generation, secret bytes for sealing, public JWK.

A key has one algorithm for life, which is used whatever a token's header asks for (RFC 8725 section
3.1). PyJWT and cryptography do the arithmetic.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import Algorithm

from authsvc.core.lib import base64url

_RSA_BITS = 2048
_HMAC_BYTES = 32
# RFC 7638 section 3.2, RFC 8037 section 2.
_THUMBPRINT_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}

_PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

ALGORITHMS = ("ES256", "EdDSA", "RS256", "HS256")

_IMPLEMENTATIONS: dict[str, Algorithm] = {
    name: jwt.PyJWS().get_algorithm_by_name(name) for name in ALGORITHMS
}
_KINDS: dict[str, type[ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey]] = {
    "ES256": ec.EllipticCurvePublicKey,
    "EdDSA": ed25519.Ed25519PublicKey,
    "RS256": rsa.RSAPublicKey,
}
# Begins what is sealed in place of an external key; PKCS #8 begins with another byte.
_EXTERNAL = b"external:"
_GENERATORS: dict[str, Callable[[], _PrivateKey]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS),
}


@dataclass(frozen=True, slots=True, eq=False)
class VerifyingKey:
    """Verifies signatures of the key `key_id`, by its one algorithm."""

    key_id: str
    algorithm: str
    _key: Any = field(repr=False)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Return whether this key made `signature` over `message`; no signature makes it raise."""
        return _IMPLEMENTATIONS[self.algorithm].verify(message, self._key, signature)


@dataclass(frozen=True, slots=True)
class ExternalSecret:
    """Where the secret of a key is that this process can't read: its id in the HSM."""

    id: bytes
    public_der: bytes


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """A key that signs; `public_jwk` is None for a symmetric key, which must stay secret."""

    key_id: str
    algorithm: str
    verifying_key: VerifyingKey
    public_jwk: dict[str, str] | None
    _secret: Any = field(repr=False)

    @property
    def external(self) -> ExternalSecret | None:
        """Where the secret is, if it is not in this process."""
        return self._secret if isinstance(self._secret, ExternalSecret) else None

    def sign(self, message: bytes) -> bytes:
        """Return the signature over `message` (RFC 7518 section 3, RFC 8037 section 3.1).

        Only for a key whose secret is in this process: a `Signer` signs with any.
        """
        return _IMPLEMENTATIONS[self.algorithm].sign(message, self._secret)

    def secret_bytes(self) -> bytes:
        """Return the secret for sealing: PKCS #8 in DER, or the raw bytes of a symmetric key.

        For an external key it is where the secret is, and the public key.
        """
        if self.external is not None:
            id_ = base64url.encode(self.external.id).encode()
            return _EXTERNAL + id_ + b":" + self.external.public_der
        if isinstance(self._secret, bytes):
            return self._secret
        encoding, form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
        secret: bytes = self._secret.private_bytes(encoding, form, serialization.NoEncryption())
        return secret


def generate(algorithm: str) -> SigningKey:
    """Return a new key; takes tens to hundreds of milliseconds for RS256, otherwise almost none."""
    while True:
        key = _generate(algorithm)
        # A command would take such an id for an option.
        if not key.key_id.startswith("-"):
            return key


def _generate(algorithm: str) -> SigningKey:
    if algorithm == "HS256":
        return _symmetric(
            secrets.token_bytes(_HMAC_BYTES), base64url.encode(secrets.token_bytes(32))
        )
    private_key = _GENERATORS[algorithm]()
    return _asymmetric(algorithm, private_key.public_key(), private_key)


def external(algorithm: str, id_: bytes, public_der: bytes) -> SigningKey:
    """Return the key with this id in an HSM, and this public key (SubjectPublicKeyInfo in DER).

    Raises:
        ValueError: The public key is not one for the algorithm.
    """
    public_key = serialization.load_der_public_key(public_der)
    return _asymmetric(algorithm, public_key, ExternalSecret(id_, public_der))


def restore(key_id: str, algorithm: str, secret: bytes) -> SigningKey:
    """Return the key whose `secret_bytes` returned `secret`.

    Raises:
        ValueError: The secret belongs to another algorithm, or to a key other than `key_id`.
    """
    if algorithm == "HS256":
        return _symmetric(secret, key_id)
    if secret.startswith(_EXTERNAL):
        id_, _, public_der = secret.removeprefix(_EXTERNAL).partition(b":")
        key = external(algorithm, base64url.decode(id_.decode()), public_der)
    else:
        private_key = serialization.load_der_private_key(secret, password=None)
        key = _asymmetric(algorithm, private_key.public_key(), private_key)
    if key.key_id != key_id:
        raise ValueError("the secret belongs to another key id")
    return key


def _symmetric(secret: bytes, key_id: str) -> SigningKey:
    if len(secret) != _HMAC_BYTES:
        raise ValueError(f"HS256 needs a key of {_HMAC_BYTES} bytes")
    return SigningKey(key_id, "HS256", VerifyingKey(key_id, "HS256", secret), None, secret)


def _asymmetric(algorithm: str, public_key: Any, secret: Any) -> SigningKey:
    members = _public_members(algorithm, public_key)
    key_id = _thumbprint(members)
    return SigningKey(
        key_id=key_id,
        algorithm=algorithm,
        verifying_key=VerifyingKey(key_id, algorithm, public_key),
        public_jwk={**members, "kid": key_id, "use": "sig", "alg": algorithm},
        _secret=secret,
    )


def _public_members(algorithm: str, public_key: Any) -> dict[str, str]:
    fits = isinstance(public_key, _KINDS.get(algorithm, ()))
    if not fits:
        raise ValueError(f"not a key for {algorithm}")
    members = _IMPLEMENTATIONS[algorithm].to_jwk(public_key, as_dict=True)
    return {name: members[name] for name in _THUMBPRINT_MEMBERS[members["kty"]]}


def _thumbprint(members: dict[str, str]) -> str:
    """Return the SHA-256 JWK thumbprint (RFC 7638)."""
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url.encode(hashlib.sha256(text.encode()).digest())
