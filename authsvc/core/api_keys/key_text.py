"""Owns the format of API keys: a searchable prefix, a secret and a checksum.

A key is `<prefix>_`, 43 random letters and digits (256 bits), and the CRC-32 of all that in six
more: `[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{49}`. The prefix is a setting, by which leaked keys can be
found; keys with an earlier prefix stay valid. The checksum is no protection: it lets garbage be
rejected without a query. Only the SHA-256 of a key is stored.
"""

import hashlib
import re
import secrets
import string
import zlib

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
# This much of the secret may be shown; 220 bits remain.
_SHOWN_LENGTH = 6
_FORM = re.compile(r"[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{49}", re.ASCII)


def new_api_key(prefix: str) -> str:
    """Return a new key with this prefix and 256 random bits (ASVS 7.2.3)."""
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_LENGTH))
    text = f"{prefix}_{secret}"
    return text + _checksum(text)


def is_api_key(text: str) -> bool:
    """Return whether `text` has the format of a key and the right checksum."""
    if _FORM.fullmatch(text) is None:
        return False
    return text[-_CHECKSUM_LENGTH:] == _checksum(text[:-_CHECKSUM_LENGTH])


def display_prefix(key: str) -> str:
    """Return the beginning of a key, by which users recognise it."""
    return key[: key.index("_") + 1 + _SHOWN_LENGTH]


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key, under which it is stored and looked up."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
