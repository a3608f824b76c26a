"""Owns what a client does with statements: verify them, agree on a key, encrypt messages.

It calls nobody and needs nothing of the service, so it is also the recipe of docs/session-keys.md.
"""

# recipe
import base64
import secrets
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

AUDIENCE = "urn:authsvc:session-key"


def verify_statement(
    statement: str, jwks_json: str, *, issuer: str, user_id: str, purpose: str
) -> dict[str, Any]:
    """Return the claims of a statement about a user's key; raises jwt.PyJWTError or KeyError."""
    header = jwt.get_unverified_header(statement)
    if header.get("typ") != "session-key+jwt":
        raise jwt.InvalidTokenError("not a statement about a session key")
    key = jwt.PyJWKSet.from_json(jwks_json)[header["kid"]]
    claims: dict[str, Any] = jwt.decode(
        statement,
        key,
        algorithms=[key.algorithm_name],
        audience=AUDIENCE,
        issuer=issuer,
        subject=user_id,
        options={"require": ["exp", "nbf", "sub", "sid", "jti", "purpose"], "strict_aud": True},
    )
    if claims["purpose"] != purpose:
        raise jwt.InvalidTokenError("a key for another purpose")
    return claims


def agree(own: X25519PrivateKey, own_claims: dict[str, Any], peer_claims: dict[str, Any]) -> bytes:
    """Return the key that both sides compute, each from its own private and the other's public."""
    x = peer_claims["cnf"]["jwk"]["x"]
    peer = X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "="))
    context = " ".join(sorted((own_claims["jti"], peer_claims["jti"])))
    return HKDF(SHA256(), 32, salt=None, info=context.encode()).derive(own.exchange(peer))


def encrypt(key: bytes, sender: str, text: str) -> bytes:
    """Return a message that only who has the key can read, and that nobody else can have sent."""
    nonce = secrets.token_bytes(12)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, text.encode(), sender.encode())


def decrypt(key: bytes, sender: str, message: bytes) -> str:
    """Return the text of a message; raises cryptography's InvalidTag if it isn't the sender's."""
    text = ChaCha20Poly1305(key).decrypt(message[:12], message[12:], sender.encode())
    return text.decode()


# end of recipe


def public_jwk(key: X25519PrivateKey) -> str:
    """Return the public half of a key as a JWK, to be attested."""
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return f'{{"kty":"OKP","crv":"X25519","x":"{x}"}}'
