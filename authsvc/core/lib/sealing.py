"""Owns the sealing of secrets at rest and the derivation of keys, both from the keyring.

A sealed value consists of: version (1 byte), length of the key id (1 byte), key id, nonce
(12 bytes), AES-256-GCM ciphertext with its tag. The associated data is everything before the nonce,
and the table, column and row of the value, so that it can't be opened in another place.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authsvc.config import KeySettings

_VERSION = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SEALING = "seal"


class SealError(Exception):
    """A sealed value can't be opened; the message says why, without revealing its content."""


@dataclass(frozen=True, slots=True)
class _Sealed:
    header: bytes
    key_id: str
    nonce: bytes
    ciphertext: bytes


class Keyring:
    """Seals and opens secrets with AES-256-GCM and derives keys; `keys` come newest first.

    No key serves two purposes: the sealing keys are derived like all others.
    """

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        if not keys:
            raise ValueError("a keyring needs a key")
        self._secrets = {key.id: key.key_bytes() for key in keys}
        self._newest_id = keys[0].id
        self._ciphers = {
            key_id: AESGCM(_derive(secret, _SEALING)) for key_id, secret in self._secrets.items()
        }

    def seal(self, plaintext: bytes, *, table: str, column: str, row: str) -> bytes:
        """Return `plaintext` sealed under the newest key, to be opened only at this place."""
        key_id = self._newest_id.encode()
        header = bytes([_VERSION, len(key_id)]) + key_id
        nonce = os.urandom(_NONCE_BYTES)
        place = _associated_data(header, table, column, row)
        return header + nonce + self._ciphers[self._newest_id].encrypt(nonce, plaintext, place)

    def open(self, sealed: bytes, *, table: str, column: str, row: str) -> bytes:
        """Return the plaintext of a value that was sealed for this place.

        Raises:
            SealError: It was altered, belongs elsewhere, or its key is not in the keyring.
        """
        parts = _parse(sealed)
        cipher = self._ciphers.get(parts.key_id)
        if cipher is None:
            raise SealError("The value is sealed under a key that is not in the keyring.")
        place = _associated_data(parts.header, table, column, row)
        try:
            return cipher.decrypt(parts.nonce, parts.ciphertext, place)
        except InvalidTag:
            raise SealError("The sealed value was altered or belongs elsewhere.") from None

    def needs_reseal(self, sealed: bytes) -> bool:
        """Return whether `sealed` is under a key other than the newest.

        Raises:
            SealError: It is not a sealed value.
        """
        return _parse(sealed).key_id != self._newest_id

    def derive(self, purpose: str) -> list[bytes]:
        """Return a 32-byte key for `purpose` from each key of the ring, newest first (RFC 5869).

        Raises:
            ValueError: The purpose is empty or reserved by the keyring.
        """
        if purpose in {"", _SEALING}:
            raise ValueError(f"can't derive a key for the purpose {purpose!r}")
        return [_derive(secret, purpose) for secret in self._secrets.values()]


def _derive(secret: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=b"authsvc", info=purpose.encode()).derive(secret)


def _associated_data(header: bytes, *place: str) -> bytes:
    """Return the header and the place, each part prefixed by its length to keep them apart."""
    parts = [header, *(part.encode() for part in place)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _parse(sealed: bytes) -> _Sealed:
    if len(sealed) < 2 or sealed[0] != _VERSION:
        raise SealError("The value is not sealed in a known format.")
    nonce_at = 2 + sealed[1]
    ciphertext_at = nonce_at + _NONCE_BYTES
    if len(sealed) < ciphertext_at + _TAG_BYTES:
        raise SealError("The sealed value is truncated.")
    return _Sealed(
        header=sealed[:nonce_at],
        key_id=sealed[2:nonce_at].decode("ascii", "replace"),
        nonce=sealed[nonce_at:ciphertext_at],
        ciphertext=sealed[ciphertext_at:],
    )
