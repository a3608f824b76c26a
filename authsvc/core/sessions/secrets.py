"""Owns the secrets of a session: the formats of its session token and anti-forgery token.

A session token is `as1_` and base64url of 32 random bytes and their CRC-32 under the prefix, an
anti-forgery token `ac1_` and base64url of 32 random bytes. The checksum is no protection: it lets
garbage be rejected without a query. Only the SHA-256 of either is stored, and sessions are looked
up by it, so neither the database nor the time that a lookup takes reveals anything about a token.
"""

import hashlib
import hmac
import os
import zlib

from authsvc.core.lib import base64url

_SESSION_PREFIX = "as1_"
_CSRF_PREFIX = "ac1_"
_SECRET_BYTES = 32
_CHECKSUM_BYTES = 4
_SESSION_TOKEN_LENGTH = len(_SESSION_PREFIX) + (_SECRET_BYTES + _CHECKSUM_BYTES) * 4 // 3


def new_session_token() -> str:
    """Return a new session token: 256 random bits (ASVS 7.2.3)."""
    secret = os.urandom(_SECRET_BYTES)
    return _SESSION_PREFIX + base64url.encode(secret + _checksum(secret))


def new_csrf_token() -> str:
    """Return a new anti-forgery token: 256 random bits."""
    return _CSRF_PREFIX + base64url.encode(os.urandom(_SECRET_BYTES))


def is_session_token(text: str) -> bool:
    """Return whether `text` has the format of a session token, canonically encoded."""
    if len(text) != _SESSION_TOKEN_LENGTH or not text.startswith(_SESSION_PREFIX):
        return False
    try:
        content = base64url.decode(text[len(_SESSION_PREFIX) :])
    except ValueError:
        return False
    return content[_SECRET_BYTES:] == _checksum(content[:_SECRET_BYTES])


def digest(token: str) -> bytes:
    """Return the SHA-256 of a token's text, which is stored instead of the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def is_csrf_token(token: str, csrf_hash: bytes) -> bool:
    """Return whether `token` is the anti-forgery token with this SHA-256, in constant time."""
    return hmac.compare_digest(digest(token), csrf_hash)


def _checksum(secret: bytes) -> bytes:
    return zlib.crc32(_SESSION_PREFIX.encode() + secret).to_bytes(_CHECKSUM_BYTES, "big")
