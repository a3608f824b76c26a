"""Owns the text forms of places in the revocation log: of watchers, and of single revocations."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.store.log_reading import Position

_REVOCATION, _WATCH = 1, 2
# Form, run, and the transaction that revoked.
_REVOCATION_FORM = struct.Struct(">B16sQ")
# Form, run, time in microseconds since 1970, end of the known transactions, and the key and the
# transaction of the last row of a page (0 without one); then the transactions in progress. A key
# without a transaction is that of the last row of a page of the catch-up.
_HEAD = struct.Struct(">B16sQQQQ")
_TRANSACTION = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The end of the year 2999, with room for what is added to it.
_LATEST = 32_503_680_000_000_000
_LAST_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RevocationCursor:
    """Names what one transaction revoked."""

    run_id: UUID
    transaction: int


@dataclass(frozen=True, slots=True)
class WatchCursor:
    """Says how much a watcher knows: what is known at the position, and nothing more.

    Before the catch-up has ended, that is only true of the rows up to `catch_up_key`; afterwards
    the key is 0. All rows that the position does not know are still to be read either way.
    """

    position: Position
    catch_up_key: int = 0


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
    transaction, key = position.partial or (0, cursor.catch_up_key)
    if not isinstance(key, int):
        raise TypeError("not a position in the revocation log")
    head = _HEAD.pack(
        _WATCH,
        position.run_id.bytes,
        (position.read_time - _EPOCH) // _MICROSECOND,
        position.xmax,
        key,
        transaction,
    )
    return base64url.encode(head + b"".join(map(_TRANSACTION.pack, position.in_progress)))


def read_watch_cursor(text: str) -> WatchCursor:
    """Return the cursor that a text stands for; raises ValueError if it doesn't."""
    content = base64url.decode(text)
    try:
        form, run, micros, xmax, key, transaction = _HEAD.unpack_from(content)
        in_progress = tuple(one for (one,) in _TRANSACTION.iter_unpack(content[_HEAD.size :]))
    except struct.error:
        raise ValueError("not a cursor of a watcher") from None
    if form != _WATCH or micros > _LATEST or key > _LAST_KEY:
        raise ValueError("not a cursor of a watcher")
    # As the reader writes it: rows of a transaction named twice would be read twice.
    if list(in_progress) != sorted({one for one in in_progress if one < xmax}):
        raise ValueError("not a cursor of a watcher")
    if transaction and transaction not in in_progress:
        raise ValueError("not a cursor of a watcher")
    position = Position(
        run_id=UUID(bytes=run),
        xmax=xmax,
        in_progress=in_progress,
        read_time=_EPOCH + micros * _MICROSECOND,
        partial=(transaction, key) if transaction else None,
    )
    return WatchCursor(position, 0 if transaction else key)
