"""Owns unpadded base64url in its canonical encoding (RFC 4648 sections 3.5 and 5)."""

import base64


def encode(raw: bytes) -> str:
    """Return `raw` as unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes that `text` encodes canonically.

    Raises:
        ValueError: There is padding, a character outside the alphabet, or a non-zero trailing bit.
            Such texts would decode to the same bytes and give one secret many encodings.
    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise ValueError("not base64url") from None
    if encode(raw) != text:
        raise ValueError("not canonical base64url")
    return raw
