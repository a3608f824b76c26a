"""Owns unpadded base64url in its canonical encoding (RFC 4648 sections 3.5 and 5)."""

from binascii import a2b_base64, b2a_base64

# What is only of the standard alphabet becomes a blank, which no encoding has.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/   ")
_PADDING = (b"", b"===", b"==", b"=")


def decode(text: str) -> bytes:
    """Return the bytes that `text` encodes canonically.

    Raises:
        ValueError: There is padding, a character outside the alphabet, or a non-zero trailing bit.
            Such texts would decode to the same bytes and give one token many encodings.
    """
    # UnicodeEncodeError is a ValueError.
    standard = text.encode("ascii").translate(_TO_STANDARD)
    padded = standard + _PADDING[len(standard) % 4]
    raw = a2b_base64(padded, strict_mode=True)
    # Of what is left, only the last character's unused bits may differ.
    if b2a_base64(raw[-(len(raw) % 3 or 3) :], newline=False) != padded[-4:]:
        raise ValueError("not canonical base64url")
    return raw
