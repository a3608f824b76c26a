"""Owns the form of refresh tokens: what they carry, and how forged ones die without a query.

A token is `ar1_` and the base64url of: version (1 byte), session id (16), refresh counter (8),
HMAC-SHA256 cut to 128 bits (16; RFC 2104 section 5), CRC-32 (4). The HMAC is over the prefix and
what precedes it; the checksum, over all before it, lets secret scanners tell real tokens from
look-alikes without a key.
"""

import hmac
import struct
import zlib
from collections.abc import Sequence
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.errors import refresh_token_invalid
from authsvc.models.ids import SessionId

_PREFIX = "ar1_"
_VERSION = 1
_CONTENT = struct.Struct(">B16sQ")
_MAC_BYTES = 16
_CHECKSUM_BYTES = 4
_TOKEN_LENGTH = len(_PREFIX) + (_CONTENT.size + _MAC_BYTES + _CHECKSUM_BYTES) * 4 // 3


class RefreshTokenCodec:
    """Makes refresh tokens under the newest key and reads those made under any of `keys`.

    `keys` are secrets of 32 bytes for this purpose alone, newest first.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < 32 for key in keys):
            raise ValueError("refresh tokens need keys of at least 32 bytes")
        self._keys = tuple(keys)

    def encode(self, session_id: SessionId, counter: int) -> str:
        """Return the token number `counter` (0 to 2**63 - 1) of a session."""
        content = _CONTENT.pack(_VERSION, session_id.bytes, counter)
        signed = content + _mac(self._keys[0], content)
        return _PREFIX + base64url.encode(signed + _checksum(signed))

    def decode(self, token: str) -> tuple[SessionId, int]:
        """Return the session and the counter of a token that was made here.

        Raises:
            Unauthenticated: REFRESH_TOKEN_INVALID: garbage, truncated, forged, re-encoded, or a
                token of another kind.
        """
        if len(token) != _TOKEN_LENGTH or not token.startswith(_PREFIX):
            raise refresh_token_invalid()
        try:
            raw = base64url.decode(token[len(_PREFIX) :])
        except ValueError:
            raise refresh_token_invalid() from None
        signed, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        content, mac = signed[: _CONTENT.size], signed[_CONTENT.size :]
        if _checksum(signed) != checksum or not self._made_here(content, mac):
            raise refresh_token_invalid()
        version, session_id, counter = _CONTENT.unpack(content)
        if version != _VERSION:
            raise refresh_token_invalid()
        return SessionId(UUID(bytes=session_id)), counter

    def _made_here(self, content: bytes, mac: bytes) -> bool:
        """Compare in constant time, with every key whichever fits (ASVS 11.2.4)."""
        matches = [hmac.compare_digest(_mac(key, content), mac) for key in self._keys]
        return any(matches)


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, _PREFIX.encode() + content, "sha256")[:_MAC_BYTES]


def _checksum(signed: bytes) -> bytes:
    return zlib.crc32(_PREFIX.encode() + signed).to_bytes(_CHECKSUM_BYTES, "big")
