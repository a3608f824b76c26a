"""Owns the text forms of places in the revocation log: of watchers, and of single revocations."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position
from authsvc.store.revocations import Place

_REVOCATION, _WATCH, _CATCH_UP = 1, 2, 3
# Form, run, and the transaction that revoked.
_REVOCATION_FORM = struct.Struct(">B16sQ")
# Form, run, time in microseconds since 1970, end of the known transactions, and the key and the
# transaction of the last row of a page (0 without one); then the transactions in progress. In the
# form of a catch-up, time and key of its last row stand between.
_HEAD = struct.Struct(">B16sQQQQ")
_PLACE = struct.Struct(">QQ")
_TRANSACTION = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The end of the year 2999, with room for what is added to it.
_LATEST = 32_503_680_000_000_000
_LAST_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class WatchCursor:
    """Says what a watcher knows of the log.

    That is what the position says, or, during its catch-up, what precedes a place; what the
    position does not know follows then.
    """

    position: Position
    catch_up: Place | None = None


def write_revocation_cursor(cursor: RevocationCursor) -> str:
    """Return the cursor as text."""
    content = _REVOCATION_FORM.pack(_REVOCATION, cursor.run_id.bytes, cursor.transaction)
    return base64url.encode(content)


def read_revocation_cursor(text: str) -> RevocationCursor:
    """Return the cursor that a text stands for; raises ValueError if it doesn't."""
    content = base64url.decode(text)
    if len(content) != _REVOCATION_FORM.size or content[0] != _REVOCATION:
        raise ValueError("not a cursor of a revocation")
    _, run, transaction = _REVOCATION_FORM.unpack(content)
    return RevocationCursor(UUID(bytes=run), transaction)


def write_watch_cursor(cursor: WatchCursor) -> str:
    """Return the cursor as text."""
    position = cursor.position
    transaction, key = position.partial or (0, 0)
    if not isinstance(key, int):
        raise TypeError("not a position in the revocation log")
    head = _HEAD.pack(
        _CATCH_UP if cursor.catch_up else _WATCH,
        position.run_id.bytes,
        _micros(position.read_time),
        position.xmax,
        key,
        transaction,
    )
    if cursor.catch_up:
        time, place_key = cursor.catch_up
        head += _PLACE.pack(_micros(time), place_key)
    return base64url.encode(head + b"".join(map(_TRANSACTION.pack, position.in_progress)))


def read_watch_cursor(text: str) -> WatchCursor:
    """Return the cursor that a text stands for; raises ValueError if it doesn't."""
    content = base64url.decode(text)
    try:
        return _read_watch_cursor(content)
    except struct.error:
        raise ValueError("not a cursor of a watcher") from None


def _read_watch_cursor(content: bytes) -> WatchCursor:
    form, run, micros, xmax, key, transaction = _HEAD.unpack_from(content)
    rest = content[_HEAD.size :]
    catch_up = None
    if form == _CATCH_UP:
        catch_up = _place(*_PLACE.unpack_from(rest))
        rest = rest[_PLACE.size :]
    in_progress = [one for (one,) in _TRANSACTION.iter_unpack(rest)]
    # As the reader writes it: rows of a transaction named twice would be read twice.
    is_possible = in_progress == sorted({one for one in in_progress if one < xmax})
    is_partial = transaction in in_progress if transaction else key == 0
    if form not in {_WATCH, _CATCH_UP} or not (is_possible and is_partial):
        raise ValueError("not a cursor of a watcher")
    time, key = _place(micros, key)
    position = Position(
        run_id=UUID(bytes=run),
        xmax=xmax,
        in_progress=tuple(in_progress),
        read_time=time,
        partial=(transaction, key) if transaction else None,
    )
    return WatchCursor(position, catch_up)


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _place(micros: int, key: int) -> Place:
    if micros > _LATEST or key > _LAST_KEY:
        raise ValueError("not a cursor of a watcher")
    return _EPOCH + micros * _MICROSECOND, key
