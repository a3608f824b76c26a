"""Base64url: encoding, and strict decoding of the one canonical spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.lib import base64url


@given(st.binary(max_size=64))
def test_encoding_round_trips_without_padding(raw: bytes) -> None:
    text = base64url.encode(raw)
    assert base64url.decode(text) == raw
    assert "=" not in text


def test_alphabet_is_url_safe() -> None:
    assert base64url.encode(b"\xfb\xff") == "-_8"


@pytest.mark.parametrize(
    "text",
    ["-_8=", "+/8", "-_9", "A", "AA\n", " AA", "AA A", "Ä", "AB"],
    ids=[
        *("padded", "plain base64", "trailing bits", "one character", "end of line"),
        *("blank before", "blank within", "not ASCII", "other trailing bits"),
    ],
)
def test_non_canonical_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64url|canonical"):
        base64url.decode(text)
