"""Owns the reading of logs: which rows were committed since the last read, page by page.

A log is a table to which rows are appended. They are committed in another order than they are
written, so neither their number nor their time says which are new. A snapshot does: a row is new if
its transaction was not finished in the snapshot of the last read and is finished now. A late commit
is never missed, and a transaction that stays open costs one entry in the snapshot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

import asyncpg

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.connector import FAILURES, Connection, PoolConnection, known_timeline
from authsvc.store.postgres.database import Database

Row = TypeVar("Row")
Key: TypeAlias = int | UUID

# In a log partitioned by time: how much older than the end of its transaction a row can be, and how
# old a position can be that is read on from.
_LONGEST_TRANSACTION = timedelta(days=1)
LONGEST_GAP = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log has been read.

    All rows are known of the transactions below `xmax` except those `in_progress`, in this run of
    the server. `partial` is the last row of a page: those before it, in the order of transaction
    and key, are known although their transaction counts as in progress. Every transaction that is
    not known ended after `read_time`, on the database's clock.
    """

    run_id: UUID
    xmax: int
    in_progress: tuple[int, ...]
    read_time: datetime
    partial: tuple[int, Key] | None = None

    def knows(self, transaction: int) -> bool:
        """Return whether all rows of a transaction are known."""
        return transaction < self.xmax and transaction not in self.in_progress

    def covers(self, other: "Position") -> bool:
        """Return whether everything is known here that is known at the other position."""
        unknown = (one for one in self.in_progress if one < other.xmax)
        return self.xmax >= other.xmax and all(not other.knows(one) for one in unknown)


@dataclass(frozen=True, slots=True)
class LogRead(Generic[Row]):
    """One read of a log: the rows, in the order of their transactions, and the position after them.

    `rows` is None if the reader can't go on from its last position: it has none, the server's run
    has ended, or the position is too old. `end` is where nothing of what had been committed by then
    is left to read, and `database_time` is read after it.
    """

    rows: Sequence[Row] | None
    position: Position
    end: Position
    database_time: datetime

    @property
    def is_complete(self) -> bool:
        """Whether these rows are all that there are to read."""
        return self.position == self.end


class Log(Generic[Row]):
    """A table with an indexed column `transaction_id`: `xid8 DEFAULT pg_current_xact_id()`.

    `key` is a column that orders the rows of a transaction, and `first_key` a value below all of
    its values. `columns` are selected for `parse`, which makes a row of them. `time` is the column
    by which the table is partitioned, if it is; the longest gap is then `LONGEST_GAP`.
    """

    def __init__(
        self,
        *,
        table: str,
        key: str,
        first_key: Key,
        columns: str,
        parse: Callable[[asyncpg.Record], Row],
        time: str | None = None,
    ) -> None:
        self.table = table
        self.parse = parse
        self.first_key = first_key
        self.has_time = time is not None
        # PostgreSQL skips the partitions that can't hold such rows.
        during = f"AND {time} >= $7 AND {time} < $8" if time else ""
        self.statement = _READ.format(table=table, key=key, columns=columns, during=during)


# In one statement, so that the rows are those of the snapshot. Rows that another cluster wrote (a
# dump was restored) may have ids that are not given out yet: they are left out. Each half can be
# read in the order of the index until the page is full.
_READ = """
WITH state AS MATERIALIZED (
    SELECT server_run() AS run_id, pg_current_snapshot() AS snapshot,
        now() AS read_time, clock_timestamp() AS database_time
    WHERE (SELECT require_primary($4)))
SELECT state.*, appended.* FROM state LEFT JOIN (
    (SELECT transaction_id AS log_transaction, {key} AS log_key, {columns} FROM {table}
     WHERE transaction_id >= $1 AND transaction_id < pg_snapshot_xmax(pg_current_snapshot())
        {during}
     ORDER BY transaction_id, {key} LIMIT $3)
    UNION ALL
    (SELECT transaction_id, {key}, {columns} FROM {table}
     WHERE transaction_id = ANY ($2::xid8[])
        AND transaction_id < pg_snapshot_xmax(pg_current_snapshot())
        AND (transaction_id, {key}) > ($5, $6) {during}
     ORDER BY transaction_id, {key} LIMIT $3)
    ORDER BY log_transaction, log_key LIMIT $3
) AS appended ON true
ORDER BY log_transaction, log_key
"""
# For a read that only takes the snapshot: beyond every transaction, and before every row.
_BEYOND = (1 << 64) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def read_log(
    connection: Connection,
    log: Log[Row],
    last: Position | None,
    limit: int,
    patience: float | None = None,
) -> LogRead[Row]:
    """Return up to `limit` rows committed since the position; without one, only take the snapshot.

    Fails on a server that is read-only, in recovery, or another one than the connection was opened
    to, and after `patience` seconds, if it differs from the connection's own limit.
    """
    partial = last.partial if last and last.partial else (0, log.first_key)
    parameters: list[Any] = [
        last.xmax if last else _BEYOND,
        last.in_progress if last else (),
        limit + 1,
        known_timeline(connection),
        *partial,
    ]
    if log.has_time:
        since = last.read_time if last else _EPOCH
        parameters += [since - _LONGEST_TRANSACTION, since + LONGEST_GAP + _LONGEST_TRANSACTION]
    records = await connection.fetch(log.statement, *parameters, timeout=patience)
    _, xmax, in_progress = records[0]["snapshot"]
    read_time, database_time = records[0]["read_time"], records[0]["database_time"]
    end = Position(records[0]["run_id"], xmax, tuple(sorted(in_progress)), read_time)
    if last is None or not _continues(log, last, end):
        return LogRead(None, end, end, database_time)
    found = [record for record in records if record["log_transaction"] is not None]
    page = found[:limit]
    rest_from = page[-1] if len(found) > limit else None
    position = _part_way(last, end, rest_from) if rest_from else _at_end(last, end)
    return LogRead([log.parse(record) for record in page], position, end, database_time)


class LogConnection:
    """A connection of its own for a reader, to the server that the pool uses.

    So a busy pool does not delay the reader, and the pool leaves a server when the reader finds
    that it must be left.
    """

    def __init__(self, database: Database, connection: PoolConnection) -> None:
        self._database = database
        self._connection = connection

    @classmethod
    async def open(cls, database: Database) -> "LogConnection":
        """Connect; raises StoreUnavailable."""
        return cls(database, await database.connect())

    async def read(
        self, log: Log[Row], last: Position | None, limit: int, patience: float
    ) -> LogRead[Row]:
        """Read as `read_log` does, if it takes at most `patience` seconds.

        Raises StoreUnavailable, also if the server is read-only, in recovery or another one; the
        database leaves it then.
        """
        try:
            return await read_log(self._connection, log, last, limit, patience)
        except (asyncpg.ReadOnlySQLTransactionError, asyncpg.FeatureNotSupportedError) as error:
            # The latter: an unlogged table can't be read during recovery.
            self._database.leave_server(str(error), self._connection)
            raise StoreUnavailable from error
        except FAILURES as error:
            raise StoreUnavailable from error

    def close(self) -> None:
        """Close the connection without waiting for the server."""
        self._connection.terminate()


def _continues(log: Log[Any], last: Position, end: Position) -> bool:
    return (
        end.run_id == last.run_id
        and end.xmax >= last.xmax
        and not (log.has_time and end.read_time - last.read_time > LONGEST_GAP)
    )


def _part_way(last: Position, end: Position, record: asyncpg.Record) -> Position:
    """Return the position after a page whose last row is this one."""
    transaction: int = record["log_transaction"]
    xmax = max(last.xmax, transaction + 1)
    unknown = {
        transaction,
        *_skipped(last),
        *(one for one in last.in_progress if one > transaction),
    }
    unknown.update(one for one in end.in_progress if one < xmax)
    return replace(
        last,
        xmax=xmax,
        in_progress=tuple(sorted(unknown)),
        partial=(transaction, record["log_key"]),
    )


def _at_end(last: Position, end: Position) -> Position:
    """Return the position after the last page."""
    skipped = _skipped(last)
    if skipped <= set(end.in_progress):
        return end
    # Some of them have ended: they are read next.
    unknown = tuple(sorted(skipped.union(end.in_progress)))
    return replace(end, in_progress=unknown, read_time=last.read_time)


def _skipped(last: Position) -> set[int]:
    """Return what was left out, since the last page ended in a later transaction."""
    return {one for one in last.in_progress if last.partial and one < last.partial[0]}
