"""Owns base64url without padding, in its one canonical spelling (RFC 4648 sections 3.5 and 5)."""

import base64


def encode(raw: bytes) -> str:
    """Return `raw` in base64url, unpadded."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes that `text` is the canonical spelling of.

    Raises:
        ValueError: There is padding, a character of no base64url, or a non-zero trailing bit. Such
            spellings decode to the same bytes and would make one secret many texts.
    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise ValueError("not base64url") from None
    if encode(raw) != text:
        raise ValueError("not in the canonical spelling")
    return raw
