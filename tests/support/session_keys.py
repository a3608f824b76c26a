"""Public keys of every kind, and requests to attest them."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.service import Service

FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def okp(curve: str = "X25519") -> dict[str, str]:
    kind = x25519.X25519PrivateKey if curve == "X25519" else ed25519.Ed25519PrivateKey
    return {"kty": "OKP", "crv": curve, "x": b64(kind.generate().public_key().public_bytes_raw())}


def elliptic(curve: str = "P-256") -> dict[str, str]:
    chosen, size = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48)}[curve]
    numbers = ec.generate_private_key(chosen).public_key().public_numbers()
    x, y = numbers.x.to_bytes(size), numbers.y.to_bytes(size)
    return {"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)}


def rsa_key(bits: int = 2_048, exponent: int = 65_537) -> dict[str, str]:
    numbers = rsa.generate_private_key(exponent, bits).public_key().public_numbers()
    n = numbers.n.to_bytes(bits // 8)
    return {
        "kty": "RSA",
        "n": b64(n),
        "e": b64(exponent.to_bytes((exponent.bit_length() + 7) // 8)),
    }


def new_jwk() -> str:
    """Return a new public key, as an application might send it."""
    return json.dumps(okp() | {"kid": "mine", "use": "enc"})


async def issue(service: Service, tokens: Tokens, **more: Any) -> pb.SessionKey:
    """Have a key of the tokens' session attested; `more` are fields that differ."""
    fields: dict[str, Any] = {"session_token": tokens.session_token, "purpose": "chat"} | more
    if not {"public_jwk", "dtls_fingerprint"} & more.keys():
        fields["public_jwk"] = new_jwk()
    response = await service.sessions().IssueSessionKey(pb.IssueSessionKeyRequest(**fields))
    return response.session_key


async def keys_of(service: Service, user_id: str) -> list[str]:
    """Return the ids of a user's keys, as a verifier gets them."""
    request = pb.GetSessionKeysRequest(user_id=user_id)
    listed = await service.sessions("edge").GetSessionKeys(request)
    return [key.key_id for key in listed.session_keys]
