"""Owns the text form of positions in the audit log: cursors of watchers, and stored positions."""

import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.store.log_reading import Position

_VERSION = 1
# Version, run, time in microseconds since 1970, end of the known transactions, and the transaction
# and key of the last row of a page (0 without one); then the transactions in progress.
_HEAD = struct.Struct(">B16sQQQ16s")
_TRANSACTION = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The end of the year 2999, with room for what is added to it.
_LATEST = 32_503_680_000_000_000


def write_cursor(position: Position) -> str:
    """Return a position as text."""
    transaction, key = position.partial or (0, UUID(int=0))
    if isinstance(key, int):
        raise TypeError("not a position in the audit log")
    head = _HEAD.pack(
        _VERSION,
        position.run_id.bytes,
        (position.read_time - _EPOCH) // _MICROSECOND,
        position.xmax,
        transaction,
        key.bytes,
    )
    return base64url.encode(head + b"".join(map(_TRANSACTION.pack, position.in_progress)))


def read_cursor(text: str) -> Position:
    """Return the position that a text stands for; ValueError if it isn't that of one."""
    content = base64url.decode(text)
    try:
        version, run, micros, xmax, transaction, key = _HEAD.unpack_from(content)
        in_progress = tuple(one for (one,) in _TRANSACTION.iter_unpack(content[_HEAD.size :]))
    except struct.error as error:
        raise ValueError("not a cursor") from error
    if version != _VERSION or micros > _LATEST:
        raise ValueError("not a cursor of this version")
    if transaction and transaction not in in_progress:
        raise ValueError("not a cursor")
    return Position(
        run_id=UUID(bytes=run),
        xmax=xmax,
        in_progress=in_progress,
        read_time=_EPOCH + micros * _MICROSECOND,
        partial=(transaction, UUID(bytes=key)) if transaction else None,
    )
