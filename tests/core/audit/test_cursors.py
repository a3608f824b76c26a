"""Cursors: what is written is read again, and nothing else is taken for one."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.audit.cursors import read_cursor, write_cursor
from authsvc.core.lib import base64url
from authsvc.store.log_reading import Position

_TRANSACTIONS = st.integers(1, 2**64 - 1)
_POSITIONS = st.builds(
    lambda run, xmax, in_progress, seconds, key: Position(
        run_id=run,
        xmax=xmax,
        in_progress=tuple(sorted(in_progress)),
        read_time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=seconds),
        partial=(max(in_progress), key) if in_progress and key.int % 2 else None,
    ),
    st.uuids(),
    _TRANSACTIONS,
    st.sets(_TRANSACTIONS, max_size=5),
    st.integers(0, 10**15),
    st.uuids(),
)


@given(position=_POSITIONS)
def test_position_survives_its_cursor(position: Position) -> None:
    assert read_cursor(write_cursor(position)) == position


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(base64url.encode))
def test_other_texts_are_no_cursors(text: str) -> None:
    try:
        position = read_cursor(text)
    except ValueError:
        return
    assert write_cursor(position) == text


@pytest.mark.parametrize("version", [0, 2, 255])
def test_cursor_of_another_version_is_none(version: int) -> None:
    position = Position(UUID(int=1), 7, (), datetime(2026, 1, 1, tzinfo=UTC))
    content = bytes([version]) + base64url.decode(write_cursor(position))[1:]
    with pytest.raises(ValueError, match="version"):
        read_cursor(base64url.encode(content))
