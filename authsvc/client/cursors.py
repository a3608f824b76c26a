"""Owns the text forms of places in the revocation log, as a watcher reads them.

A watcher knows a revocation if its cursor's snapshot shows that transaction finished. Cursors are
never compared by size, and those of different runs of the database never know one another.
"""

import struct
from dataclasses import dataclass

from authsvc.client import base64url

_REVOCATION, _WATCH = 1, 2
# Form, run, and the transaction that revoked.
_REVOCATION_FORM = struct.Struct(">B16sQ")
# Form, run, time in microseconds since 1970, end of the known transactions, and the key and the
# transaction of the last row of a page; then the transactions in progress.
_HEAD = struct.Struct(">B16sQQQQ")
_TRANSACTION = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class RevocationCursor:
    """Names what one transaction revoked."""

    run_id: bytes
    transaction: int


@dataclass(frozen=True, slots=True)
class WatchCursor:
    """The snapshot up to which a watcher knows everything, once its responses are complete."""

    run_id: bytes
    end: int
    in_progress: frozenset[int]

    def knows(self, revocation: RevocationCursor) -> bool:
        """Return whether that transaction was finished in this snapshot."""
        return (
            revocation.run_id == self.run_id
            and revocation.transaction < self.end
            and revocation.transaction not in self.in_progress
        )


def read_revocation_cursor(text: str) -> RevocationCursor:
    """Return the cursor that a text stands for; raises ValueError if it doesn't."""
    content = base64url.decode(text)
    if len(content) != _REVOCATION_FORM.size or content[0] != _REVOCATION:
        raise ValueError("not a cursor of a revocation")
    _, run_id, transaction = _REVOCATION_FORM.unpack(content)
    return RevocationCursor(run_id, transaction)


def read_watch_cursor(text: str) -> WatchCursor:
    """Return the cursor that a text stands for; raises ValueError if it doesn't."""
    content = base64url.decode(text)
    try:
        form, run_id, _micros, end, _key, _transaction = _HEAD.unpack_from(content)
        in_progress = frozenset(one for (one,) in _TRANSACTION.iter_unpack(content[_HEAD.size :]))
    except struct.error:
        raise ValueError("not a cursor of a watcher") from None
    if form != _WATCH:
        raise ValueError("not a cursor of a watcher")
    return WatchCursor(run_id, end, in_progress)
