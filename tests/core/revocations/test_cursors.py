"""Cursors: what is written is read again, and nothing else is taken for one."""

import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.lib import base64url
from authsvc.core.revocations.cursors import (
    WatchCursor,
    read_revocation_cursor,
    read_watch_cursor,
    write_revocation_cursor,
    write_watch_cursor,
)
from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position

_RUN = UUID(int=1)
_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_TRANSACTIONS = st.integers(1, 2**64 - 2)
_KEYS = st.integers(1, 2**63 - 1)
_TEXTS = st.text(max_size=200) | st.binary(max_size=200).map(base64url.encode)


@st.composite
def _cursors(draw: st.DrawFn) -> WatchCursor:
    in_progress = sorted(draw(st.sets(_TRANSACTIONS, max_size=5)))
    partial: tuple[int, int] | None = None
    is_partial = draw(st.booleans())
    if in_progress and is_partial:
        partial = (draw(st.sampled_from(in_progress)), draw(_KEYS))
    position = Position(
        run_id=draw(st.uuids()),
        xmax=draw(st.integers(max(in_progress, default=1) + 1, 2**64 - 1)),
        in_progress=tuple(in_progress),
        read_time=_TIME + timedelta(microseconds=draw(st.integers(0, 10**15))),
        partial=partial,
    )
    place = st.tuples(
        st.integers(0, 10**15).map(lambda us: _TIME + timedelta(microseconds=us)), _KEYS
    )
    return WatchCursor(position, draw(st.none() | place))


@given(cursor=_cursors())
def test_cursor_of_a_watcher_survives_its_text(cursor: WatchCursor) -> None:
    assert read_watch_cursor(write_watch_cursor(cursor)) == cursor


@given(run=st.uuids(), transaction=st.integers(0, 2**64 - 1))
def test_cursor_of_a_revocation_survives_its_text(run: UUID, transaction: int) -> None:
    cursor = RevocationCursor(run, transaction)
    text = write_revocation_cursor(cursor)
    assert read_revocation_cursor(text) == cursor
    assert len(base64url.decode(text)) == 25


@given(text=_TEXTS)
def test_other_texts_are_no_cursors_of_a_watcher(text: str) -> None:
    try:
        cursor = read_watch_cursor(text)
    except ValueError:
        return
    assert write_watch_cursor(cursor) == text


@given(text=_TEXTS)
def test_other_texts_are_no_cursors_of_a_revocation(text: str) -> None:
    try:
        cursor = read_revocation_cursor(text)
    except ValueError:
        return
    assert write_revocation_cursor(cursor) == text


def _text(
    *in_progress: int,
    form: int = 2,
    micros: int = 1_000_000,
    xmax: int = 100,
    key: int = 0,
    transaction: int = 0,
    place: tuple[int, int] | None = None,
) -> str:
    head = struct.pack(">B16sQQQQ", form, _RUN.bytes, micros, xmax, key, transaction)
    if place:
        head += struct.pack(">QQ", *place)
    return base64url.encode(head + b"".join(struct.pack(">Q", one) for one in in_progress))


def test_cursor_has_the_described_form() -> None:
    position = Position(_RUN, 100, (7, 9), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), (7, 5))
    assert write_watch_cursor(WatchCursor(position)) == _text(7, 9, key=5, transaction=7)
    place = (datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC), 3)
    text = _text(7, 9, form=3, key=5, transaction=7, place=(2_000_000, 3))
    assert write_watch_cursor(WatchCursor(position, place)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_text(form=1), id="form"),
        pytest.param(_text(micros=2**63), id="time"),
        pytest.param(_text(7, key=2**63, transaction=7), id="key beyond bigint"),
        pytest.param(_text(key=5), id="key without a transaction"),
        pytest.param(_text(form=3), id="no place"),
        pytest.param(_text(form=3, place=(2**63, 1)), id="time of the place"),
        pytest.param(_text(form=3, place=(1, 2**63)), id="key of the place"),
        pytest.param(_text(7, 7), id="twice"),
        pytest.param(_text(9, 7), id="order"),
        pytest.param(_text(100), id="in progress beyond the end"),
        pytest.param(_text(7, key=5, transaction=8), id="page of a known transaction"),
        pytest.param(write_revocation_cursor(RevocationCursor(_RUN, 7)), id="of a revocation"),
    ],
)
def test_hostile_cursor_of_a_watcher_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        read_watch_cursor(text)


@pytest.mark.parametrize("text", [_text(), base64url.encode(bytes(25)), base64url.encode(b"\1")])
def test_hostile_cursor_of_a_revocation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor of a revocation"):
        read_revocation_cursor(text)
