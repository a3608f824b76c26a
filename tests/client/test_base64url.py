"""Base64url of the client: one encoding for each content, the same as the service's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.client import base64url
from authsvc.core.lib import base64url as theirs


@given(st.binary(max_size=100))
def test_what_the_service_encodes_is_decoded(raw: bytes) -> None:
    assert base64url.decode(theirs.encode(raw)) == raw


@given(st.text(alphabet="AQgw-_+/= \n\0éB", max_size=8))
def test_other_texts_are_rejected_as_by_the_service(text: str) -> None:
    try:
        expected: bytes | None = theirs.decode(text)
    except ValueError:
        expected = None
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            base64url.decode(text)
    else:
        assert base64url.decode(text) == expected
