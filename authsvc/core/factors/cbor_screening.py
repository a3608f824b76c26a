"""Owns the screening of CBOR from authenticators, before a general decoder reads it.

A general decoder gives tags a meaning, and one of them is a regular expression, which it compiles:
a few kilobytes keep the whole process busy for seconds. CTAP2's canonical form has no tags, so none
is decoded (CTAP 2.1, section 8).
"""

_TAG, _OTHER = 6, 7
_STRINGS = (2, 3)
_ONE_BYTE, _EIGHT_BYTES, _INDEFINITE = 24, 27, 31
# The first values that need one, two, four and eight bytes.
_LEAST = (24, 1 << 8, 1 << 16, 1 << 32)

_FLAGS_AT, _FIXED_BYTES, _ID_LENGTH_AT, _ID_AT = 32, 37, 53, 55
_HAS_CREDENTIAL = 0x40


def reject_tags(data: bytes, *, canonical: bool = False) -> None:
    """Raise ValueError if these CBOR items have a tag, in one pass; what is malformed may pass.

    If `canonical`, also if encoding them again could yield another length: reject lengths and
    numbers that are not in their shortest form, indefinite lengths and floats.
    """
    at = 0
    while at < len(data):
        kind, value = data[at] >> 5, data[at] & 31
        at += 1
        if kind == _TAG:
            raise ValueError("a tag")
        if canonical and (value > _EIGHT_BYTES or (kind == _OTHER and value > _ONE_BYTE)):
            raise ValueError("an indefinite length or a float")
        if _ONE_BYTE <= value <= _EIGHT_BYTES:
            size = value - _ONE_BYTE
            value = int.from_bytes(data[at : at + (1 << size)])
            at += 1 << size
            if canonical and value < _LEAST[size]:
                raise ValueError("not the shortest form")
        elif value == _INDEFINITE:
            value = 0
        if kind in _STRINGS:
            at += value


def reject_tags_in_authenticator_data(data: bytes) -> None:
    """Raise ValueError if authenticator data (WebAuthn Level 3, section 6.1) has tags in its CBOR.

    py_webauthn takes the extensions to begin after as many bytes as the key has once it is encoded
    again. It has to be canonical, or something in a string could be taken for the extensions.
    """
    start = _FIXED_BYTES
    if len(data) > _FLAGS_AT and data[_FLAGS_AT] & _HAS_CREDENTIAL:
        start = _ID_AT + int.from_bytes(data[_ID_LENGTH_AT:_ID_AT])
    reject_tags(data[start:], canonical=True)
