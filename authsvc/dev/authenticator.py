"""Owns a software authenticator, which creates passkeys and signs with them (WebAuthn).

It is for the demo and tests, so it checks nothing: `client_data` replaces what a browser would
send, and the flags claim checks that nobody made. Its keys exist only in this process.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

_AAGUID = bytes(16)
# Flags of authenticator data (WebAuthn Level 3, section 6.1).
_PRESENT = 0x01
_VERIFIED = 0x04
_BACKUP_ELIGIBLE = 0x08
_BACKED_UP = 0x10
_ATTESTED = 0x40
_EXTENDED = 0x80


@dataclass(slots=True)
class Credential:
    """A passkey for one relying party; its public key is ES256."""

    relying_party_id: str
    user_handle: bytes
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    private_key: EllipticCurvePrivateKey = field(
        default_factory=lambda: generate_private_key(SECP256R1()), repr=False
    )
    sign_count: int = 0

    def public_key(self) -> dict[int, Any]:
        """Return the public key as a COSE_Key (RFC 9052)."""
        numbers = self.private_key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        return {1: 2, 3: -7, -1: 1, -2: x, -3: y}


class Authenticator:
    """A device and its browser, on a page of `origin`.

    If `synced`, its passkeys exist on other devices too. `counts` says whether signature counters
    increase: by default, only those of passkeys that are not synced. `present` and `verifies_user`
    are its claims about the user; `next_id` is the id of the next passkey, random if None.
    `extensions` are the outputs of extensions in its authenticator data.
    """

    def __init__(self, origin: str, *, synced: bool = False) -> None:
        self.origin = origin
        self.synced = synced
        self.counts = not synced
        self.present = True
        self.verifies_user = True
        self.next_id: bytes | None = None
        self.extensions: dict[str, Any] = {}
        self.credentials: list[Credential] = []

    def create(
        self, options_json: str, *, client_data: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Create a passkey for PublicKeyCredentialCreationOptions; return a PublicKeyCredential."""
        options = json.loads(options_json)
        credential = Credential(options["rp"]["id"], decode(options["user"]["id"]))
        credential.credential_id = self.next_id or credential.credential_id
        self.credentials.append(credential)
        attested = (
            _AAGUID
            + len(credential.credential_id).to_bytes(2, "big")
            + credential.credential_id
            + cbor2.dumps(credential.public_key())
        )
        attestation = {
            "fmt": "none",
            "attStmt": {},
            "authData": self._authenticator_data(credential, attested),
        }
        return _public_key_credential(
            credential.credential_id,
            {
                "clientDataJSON": self._client_data("webauthn.create", options, client_data),
                "attestationObject": cbor2.dumps(attestation),
            },
            transports=["internal"],
        )

    def get(
        self, options_json: str, *, client_data: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Sign PublicKeyCredentialRequestOptions; return a PublicKeyCredential.

        Raises:
            LookupError: The options allow none of its passkeys.
        """
        options = json.loads(options_json)
        credential = self._find(options)
        if self.counts:
            credential.sign_count += 1
        signed = self._client_data("webauthn.get", options, client_data)
        data = self._authenticator_data(credential)
        signature = credential.private_key.sign(
            data + hashlib.sha256(signed).digest(), ECDSA(hashes.SHA256())
        )
        return _public_key_credential(
            credential.credential_id,
            {
                "clientDataJSON": signed,
                "authenticatorData": data,
                "signature": signature,
                "userHandle": credential.user_handle,
            },
        )

    def _find(self, options: Mapping[str, Any]) -> Credential:
        allowed = {decode(one["id"]) for one in options.get("allowCredentials", ())}
        for credential in self.credentials:
            of_this_party = credential.relying_party_id == options["rpId"]
            if of_this_party and (not allowed or credential.credential_id in allowed):
                return credential
        raise LookupError("no passkey matches the options")

    def _authenticator_data(self, credential: Credential, attested: bytes = b"") -> bytes:
        flags = bool(attested) * _ATTESTED | bool(self.extensions) * _EXTENDED
        flags |= self.present * _PRESENT | self.verifies_user * _VERIFIED
        flags |= self.synced * (_BACKUP_ELIGIBLE | _BACKED_UP)
        relying_party = hashlib.sha256(credential.relying_party_id.encode()).digest()
        count = credential.sign_count.to_bytes(4, "big")
        extensions = cbor2.dumps(self.extensions) if self.extensions else b""
        return relying_party + bytes([flags]) + count + attested + extensions

    def _client_data(
        self, kind: str, options: Mapping[str, Any], overrides: Mapping[str, Any] | None
    ) -> bytes:
        client_data = {
            "type": kind,
            "challenge": options["challenge"],
            "origin": self.origin,
            "crossOrigin": False,
        }
        return json.dumps(client_data | dict(overrides or {})).encode()


def encode(raw: bytes) -> str:
    """Return `raw` in base64url, unpadded."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes encoded as unpadded base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _public_key_credential(
    credential_id: bytes, response: Mapping[str, bytes], **more: object
) -> dict[str, Any]:
    encoded = {name: encode(raw) for name, raw in response.items()}
    return {
        "id": encode(credential_id),
        "rawId": encode(credential_id),
        "type": "public-key",
        "response": {**encoded, **more},
        "clientExtensionResults": {},
    }
