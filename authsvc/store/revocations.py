"""Owns the revocation log: appending to it, and reading what was committed since the last read.

Rows are committed in another order than they are written, so neither their number nor their time
says which are new. A snapshot does: a row is new if its transaction was not finished in the
snapshot of the last read and is finished now. A late commit is never missed, and a transaction that
stays open costs one entry in the snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import asyncpg

from authsvc.errors import StoreUnavailable
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import Kind, Revocation
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.connector import FAILURES, Connection, PoolConnection, known_timeline
from authsvc.store.postgres.database import Database

_INSERT = """
INSERT INTO revocations (session_id, user_id, key_id, api_key_id, revoke_time)
SELECT session_id, user_id, key_id, api_key_id, $5
FROM (SELECT unnest($1::uuid[]), NULL::uuid, NULL::text, NULL::uuid
      UNION ALL SELECT NULL, $2::uuid, NULL, NULL WHERE $2 IS NOT NULL
      UNION ALL SELECT NULL, NULL, $3::text, NULL WHERE $3 IS NOT NULL
      UNION ALL SELECT NULL, NULL, NULL, $4::uuid WHERE $4 IS NOT NULL
     ) AS revoked (session_id, user_id, key_id, api_key_id)
"""


async def append(
    connection: Connection,
    now: datetime,
    *,
    session_ids: Sequence[SessionId] = (),
    user_id: UserId | None = None,
    key_id: str | None = None,
    api_key_id: ApiKeyId | None = None,
) -> None:
    """Append revocations; the doorbell rings once they are committed.

    A `user_id` revokes everything that the user has; `key_id` is a signing key.
    """
    await connection.execute(_INSERT, session_ids, user_id, key_id, api_key_id, now)
    ring_after_commit(connection, Channel.REVOCATIONS)


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log has been read.

    Everything is known of the transactions below `xmax` except those in `in_progress`, in this run
    of the server.
    """

    run_id: UUID
    xmax: int
    in_progress: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogRead:
    """One read of the log.

    `revocations` is None if the reader can't continue from its last position: it has none, the
    server's run ended, or there are more than the limit.
    """

    position: Position
    database_time: datetime
    revocations: Sequence[Revocation] | None


# In one statement, so that the rows are those of the snapshot. Rows that another cluster wrote (a
# dump was restored) may have ids that are not given out yet: they are left out.
_READ = """
SELECT server_run() AS run_id, pg_current_snapshot() AS snapshot,
    clock_timestamp() AS database_time,
    coalesce((SELECT array_agg(subject) FROM (
        SELECT concat_ws(':',
            CASE WHEN session_id IS NOT NULL THEN 'session'
                 WHEN user_id IS NOT NULL THEN 'user'
                 WHEN api_key_id IS NOT NULL THEN 'api_key'
                 ELSE 'key' END,
            session_id, user_id, api_key_id, key_id) AS subject
        FROM revocations
        WHERE transaction_id < pg_snapshot_xmax(pg_current_snapshot())
            AND (transaction_id >= $1 OR transaction_id = ANY ($2::xid8[]))
        ORDER BY transaction_id LIMIT $3
    ) AS appended), '{}') AS subjects
WHERE (SELECT require_primary($4))
"""
# Beyond every transaction: for a read that only takes the snapshot.
_NONE_YET = (1 << 64) - 1


class LogConnection:
    """A connection of its own for the reader, to the server that the pool uses.

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

    async def read(self, last: Position | None, limit: int, patience: float) -> LogRead:
        """Return what was committed since the position, if it takes at most `patience` seconds.

        Raises StoreUnavailable, also if the server is read-only, in recovery or another one; the
        database leaves it then.
        """
        connection = self._connection
        try:
            row = await connection.fetchrow(
                _READ,
                last.xmax if last else _NONE_YET,
                last.in_progress if last else (),
                limit + 1,
                known_timeline(connection),
                timeout=patience,
            )
        except (asyncpg.ReadOnlySQLTransactionError, asyncpg.FeatureNotSupportedError) as error:
            # The latter: an unlogged table can't be read during recovery.
            self._database.leave_server(str(error), connection)
            raise StoreUnavailable from error
        except FAILURES as error:
            raise StoreUnavailable from error
        return _log_read(row, last, limit)

    def close(self) -> None:
        """Close the connection without waiting for the server."""
        self._connection.terminate()


def _log_read(row: Any, last: Position | None, limit: int) -> LogRead:
    _, xmax, in_progress = row["snapshot"]
    position = Position(row["run_id"], xmax, tuple(in_progress))
    continues = (
        last is not None
        and position.run_id == last.run_id
        and position.xmax >= last.xmax
        and len(row["subjects"]) <= limit
    )
    revocations = [_revocation(subject) for subject in row["subjects"]] if continues else None
    return LogRead(position, row["database_time"], revocations)


def _revocation(subject: str) -> Revocation:
    kind, _, identifier = subject.partition(":")
    return Revocation(cast("Kind", kind), identifier)
