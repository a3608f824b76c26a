"""Owns the sealing of secrets at rest and the derivation of keys, both from the keyring.

A sealed value consists of: version (1 byte), length of the key id (1 byte), key id, nonce
(12 bytes), ciphertext with its tag. The version names the algorithm: 1 is AES-256-GCM, 2 is
ChaCha20-Poly1305 (RFC 8439). The associated data is everything before the nonce, and the table,
column and row of the value, so that it can't be opened in another place.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authsvc.config import KeySettings
from authsvc.models.sealing import SealAlgorithm, SealHeader

_NONCE_BYTES = 12
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Format:
    algorithm: SealAlgorithm
    version: int
    cipher: type[AESGCM] | type[ChaCha20Poly1305]
    # The purpose of its keys: none serves two algorithms.
    purpose: str


_FORMATS = (
    _Format(SealAlgorithm.AES_256_GCM, 1, AESGCM, "seal"),
    _Format(SealAlgorithm.CHACHA20_POLY1305, 2, ChaCha20Poly1305, "seal-chacha20-poly1305"),
)
_BY_VERSION: Mapping[int, _Format] = {each.version: each for each in _FORMATS}
_BY_ALGORITHM: Mapping[SealAlgorithm, _Format] = {each.algorithm: each for each in _FORMATS}
_RESERVED = {"", *(each.purpose for each in _FORMATS)}


class SealError(Exception):
    """A sealed value can't be opened; the message says why, without revealing its content."""


@dataclass(frozen=True, slots=True)
class _Sealed:
    header: bytes
    about: SealHeader
    nonce: bytes
    ciphertext: bytes


class Keyring:
    """Seals and opens secrets, and derives keys; `keys` come newest first.

    New values are sealed with `algorithm`, and those of every algorithm are opened. No key serves
    two purposes: the sealing keys are derived like all others.
    """

    def __init__(
        self,
        keys: Sequence[KeySettings],
        algorithm: SealAlgorithm = SealAlgorithm.AES_256_GCM,
    ) -> None:
        if not keys:
            raise ValueError("a keyring needs a key")
        self._secrets = {key.id: key.key_bytes() for key in keys}
        self.newest = SealHeader(keys[0].id, algorithm)
        self._ciphers = {
            SealHeader(key_id, each.algorithm): each.cipher(_derive(secret, each.purpose))
            for key_id, secret in self._secrets.items()
            for each in _FORMATS
        }

    @property
    def key_ids(self) -> Sequence[str]:
        """The ids of all keys, newest first."""
        return tuple(self._secrets)

    @property
    def newest_header(self) -> bytes:
        """The bytes that the values sealed from now on begin with."""
        return _header(self.newest)

    def seal(self, plaintext: bytes, *, table: str, column: str, row: str) -> bytes:
        """Return `plaintext` sealed under the newest key, to be opened only at this place."""
        header, nonce = self.newest_header, os.urandom(_NONCE_BYTES)
        place = _associated_data(header, table, column, row)
        return header + nonce + self._ciphers[self.newest].encrypt(nonce, plaintext, place)

    def open(self, sealed: bytes, *, table: str, column: str, row: str) -> bytes:
        """Return the plaintext of a value that was sealed for this place.

        Raises:
            SealError: It was altered, belongs elsewhere, or its key is not in the keyring.
        """
        parts = _parse(sealed)
        cipher = self._ciphers.get(parts.about)
        if cipher is None:
            raise SealError("The value is sealed under a key that is not in the keyring.")
        place = _associated_data(parts.header, table, column, row)
        try:
            return cipher.decrypt(parts.nonce, parts.ciphertext, place)
        except InvalidTag:
            raise SealError("The sealed value was altered or belongs elsewhere.") from None

    def derive(self, purpose: str) -> list[bytes]:
        """Return a 32-byte key for `purpose` from each key of the ring, newest first (RFC 5869).

        Raises:
            ValueError: The purpose is empty or reserved by the keyring.
        """
        if purpose in _RESERVED:
            raise ValueError(f"can't derive a key for the purpose {purpose!r}")
        return [_derive(secret, purpose) for secret in self._secrets.values()]


def read_header(sealed: bytes) -> SealHeader | None:
    """Return what a sealed value, or only its beginning, says about itself; None if it is none."""
    if len(sealed) < 2 or sealed[0] not in _BY_VERSION or len(sealed) < 2 + sealed[1]:
        return None
    key_id = sealed[2 : 2 + sealed[1]].decode("ascii", "replace")
    return SealHeader(key_id, _BY_VERSION[sealed[0]].algorithm)


def _derive(secret: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=b"authsvc", info=purpose.encode()).derive(secret)


def _header(about: SealHeader) -> bytes:
    key_id = about.key_id.encode()
    return bytes([_BY_ALGORITHM[about.algorithm].version, len(key_id)]) + key_id


def _associated_data(header: bytes, *place: str) -> bytes:
    """Return the header and the place, each part prefixed by its length to keep them apart."""
    parts = [header, *(part.encode() for part in place)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _parse(sealed: bytes) -> _Sealed:
    about = read_header(sealed)
    if about is None:
        raise SealError("The value is not sealed in a known format.")
    nonce_at = 2 + sealed[1]
    ciphertext_at = nonce_at + _NONCE_BYTES
    if len(sealed) < ciphertext_at + _TAG_BYTES:
        raise SealError("The sealed value is truncated.")
    return _Sealed(
        header=sealed[:nonce_at],
        about=about,
        nonce=sealed[nonce_at:ciphertext_at],
        ciphertext=sealed[ciphertext_at:],
    )
