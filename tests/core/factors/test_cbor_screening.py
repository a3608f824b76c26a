"""Tags are found wherever a decoder would find them, and nowhere else."""

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.factors.cbor_screening import reject_tags, reject_tags_in_authenticator_data

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.integers(-9, 9) | st.text(max_size=9), inner, max_size=30)
    ),
)


@given(before=PLAIN, tagged=PLAIN, after=PLAIN)
def test_tags_are_found_at_any_depth(before: Any, tagged: Any, after: Any) -> None:
    reject_tags(cbor2.dumps([before, {"x": tagged}, after]), canonical=True)
    hidden = cbor2.dumps([before, {"x": [cbor2.CBORTag(35, tagged)]}, after])
    # Within a string it is no tag.
    reject_tags(cbor2.dumps([before, hidden, after]), canonical=True)
    with pytest.raises(ValueError, match="a tag"):
        reject_tags(hidden)


@pytest.mark.parametrize(
    "item",
    [b"\x18\x01", b"\x58\x01k", b"\x5f\x41k\xff", b"\x9f\xff", b"\xf9\x00\x00", b"\xfa\0\0\0\0"],
)
def test_other_than_canonical_items_are_refused_where_it_matters(item: bytes) -> None:
    reject_tags(item)
    with pytest.raises(ValueError, match=r"form|indefinite"):
        reject_tags(item, canonical=True)


@pytest.mark.parametrize("flags", [0x05, 0x45, 0x85, 0xC5])
def test_authenticator_data_is_screened_from_its_first_item(flags: int) -> None:
    # The hash and the credential's id are no CBOR.
    head = b"\xd8" * 32 + bytes([flags]) + bytes(4)
    if flags & 0x40:
        head += b"\xd8" * 16 + b"\x00\x03" + b"\xd8" * 3
    reject_tags_in_authenticator_data(head + b"\xa0")
    with pytest.raises(ValueError, match="a tag"):
        reject_tags_in_authenticator_data(head + b"\xa0\xd8\x23\x60")


@given(st.binary(max_size=80))
def test_any_bytes_end_the_pass(data: bytes) -> None:
    for screen in (reject_tags, reject_tags_in_authenticator_data):
        try:
            screen(data)
        except ValueError:
            continue
