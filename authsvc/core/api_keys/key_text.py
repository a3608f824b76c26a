"""Owns the form of API keys: a prefix to be found by, a secret, and a checksum.

A key is `<prefix>_`, 43 random letters and digits (256 bits), and the CRC-32 of all that in six
more: `[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{49}`. The prefix is a setting that leaked keys are searched
for by, and keys under an earlier one stay good. The checksum is no defence: it lets garbage die
without a query. Only the SHA-256 of a key is kept.
"""

import hashlib
import re
import secrets
import string
import zlib

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
# So much of the secret may be shown; 220 bits of it are left.
_SHOWN_LENGTH = 6
_FORM = re.compile(r"[a-z][a-z0-9]{1,15}_[0-9A-Za-z]{49}", re.ASCII)


def new_api_key(prefix: str) -> str:
    """Return a new key under a prefix: 256 random bits (ASVS 7.2.3)."""
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_LENGTH))
    text = f"{prefix}_{secret}"
    return text + _checksum(text)


def is_api_key(text: str) -> bool:
    """Return whether `text` has the form of a key and the checksum that goes with it."""
    if _FORM.fullmatch(text) is None:
        return False
    return text[-_CHECKSUM_LENGTH:] == _checksum(text[:-_CHECKSUM_LENGTH])


def display_prefix(key: str) -> str:
    """Return the part of a key that it may be recognised by."""
    return key[: key.index("_") + 1 + _SHOWN_LENGTH]


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key, which is what is stored and looked up."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
