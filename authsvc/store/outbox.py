"""Owns the rows of the outbox: messages to users, from being written to being delivered."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection


class MessageState(StrEnum):
    """What became of a message so far."""

    PENDING = "pending"
    SENT = "sent"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A row to be written; a decoy is never claimed.

    If `most` is given, it is left out for a user who was told so many of its kind since `since`.
    """

    message_id: UUID
    kind: str
    user_id: UserId | None
    sealed_content: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime
    decoy: bool = False
    most: int | None = None
    since: datetime | None = None


_INSERT = """
INSERT INTO outbox (message_id, kind, user_id, sealed_content, state, create_time, next_time,
    expire_time, end_time)
SELECT $1, $2, $3, $4, $5, $6, $6, $7, $8
WHERE $9::integer IS NULL OR $9 > (
    SELECT count(*) FROM outbox WHERE user_id = $3 AND kind = $2 AND create_time > $10)
RETURNING true
"""


async def insert(connection: Connection, row: NewMessage) -> bool:
    """Write a message; whoever delivers is told when the transaction is committed.

    Returns False if it was left out.
    """
    inserted = await connection.fetchval(
        _INSERT,
        row.message_id,
        row.kind,
        row.user_id,
        row.sealed_content,
        "decoy" if row.decoy else "pending",
        row.create_time,
        row.expire_time,
        row.create_time if row.decoy else None,
        row.most,
        row.since,
    )
    return inserted is not None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A row as it was read; `attempts` counts the attempt that it was claimed for."""

    message_id: UUID
    kind: str
    user_id: UserId | None
    sealed_content: bytes = field(repr=False)
    state: MessageState
    attempts: int
    create_time: datetime
    next_time: datetime
    expire_time: datetime
    end_time: datetime | None
    last_error: str


_CLAIM = """
UPDATE outbox SET attempts = attempts + 1, next_time = $2
WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM outbox
    WHERE state = 'pending' AND next_time <= $1 AND ($3 OR expire_time <= $1)
    ORDER BY next_time LIMIT $4 FOR UPDATE SKIP LOCKED))
RETURNING message_id, kind, user_id, sealed_content, state, attempts, create_time, next_time,
    expire_time, end_time, last_error
"""


async def claim(
    connection: Connection, now: datetime, until: datetime, limit: int, *, only_expired: bool
) -> list[StoredMessage]:
    """Take messages that are due; nobody else gets them before `until`, unless they are ended."""
    rows = await connection.fetch(_CLAIM, now, until, not only_expired, limit)
    return [_message(row) for row in rows]


# What was told is of no use any more. Whoever claimed it since has to know that it was sent.
_MARK_SENT = """
UPDATE outbox SET state = 'sent', end_time = $2, sealed_content = '', last_error = ''
WHERE message_id = $1 AND state = 'pending'
"""


async def mark_sent(connection: Connection, message_id: UUID, now: datetime) -> None:
    """Note that a message was delivered, and forget what it told whom."""
    await connection.execute(_MARK_SENT, message_id, now)


_POSTPONE = """
UPDATE outbox SET next_time = $3, last_error = $4
WHERE message_id = $1 AND attempts = $2 AND state = 'pending'
"""


async def postpone(
    connection: Connection, message: StoredMessage, next_time: datetime, error: str
) -> None:
    """Note why the attempt failed and when to try next, unless another attempt has begun."""
    await connection.execute(_POSTPONE, message.message_id, message.attempts, next_time, error)


_ABANDON = """
UPDATE outbox SET state = 'abandoned', end_time = $3, last_error = $4
WHERE message_id = $1 AND attempts = $2 AND state = 'pending'
RETURNING true
"""


async def abandon(
    connection: Connection, message: StoredMessage, now: datetime, error: str
) -> bool:
    """Give a message up; return False if it was ended, or another attempt has begun."""
    arguments = (message.message_id, message.attempts, now, error)
    return await connection.fetchval(_ABANDON, *arguments) is not None


_SELECT = """
SELECT message_id, kind, user_id, sealed_content, state, attempts, create_time, next_time,
    expire_time, end_time, last_error
FROM outbox WHERE state = $1 ORDER BY create_time DESC LIMIT $2
"""


async def list_in_state(
    connection: Connection, state: MessageState, limit: int
) -> list[StoredMessage]:
    """Return the newest messages in this state."""
    return [_message(row) for row in await connection.fetch(_SELECT, state.value, limit)]


_LOCK_ABANDONED = """
SELECT message_id, kind, user_id, sealed_content, state, attempts, create_time, next_time,
    expire_time, end_time, last_error
FROM outbox WHERE message_id = $1 AND state = 'abandoned' FOR UPDATE
"""


async def lock_abandoned(connection: Connection, message_id: UUID) -> StoredMessage | None:
    """Return an abandoned message, held until the end of the transaction."""
    row = await connection.fetchrow(_LOCK_ABANDONED, message_id)
    return _message(row) if row else None


_REVIVE = """
UPDATE outbox SET state = 'pending', end_time = NULL, next_time = $2, expire_time = $3
WHERE message_id = $1
"""
_WAKE = "SELECT pg_notify('authsvc_outbox', '')"


async def revive(
    connection: Connection, message_id: UUID, now: datetime, expire_time: datetime
) -> None:
    """Let an abandoned message be delivered after all."""
    await connection.execute(_REVIVE, message_id, now, expire_time)
    await connection.execute(_WAKE)


_DELETE_ENDED = """
DELETE FROM outbox WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM outbox WHERE end_time < $1
    ORDER BY end_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_ended(connection: Connection, ended_before: datetime, limit: int) -> int:
    """Delete messages, and decoys, that were sent or abandoned before then; return how many."""
    tag = await connection.execute(_DELETE_ENDED, ended_before, limit)
    return int(tag.rpartition(" ")[2])


_COUNT = """
SELECT (SELECT count(*) FROM outbox WHERE state = 'pending'),
    (SELECT count(*) FROM outbox WHERE state = 'abandoned')
"""


async def count(connection: Connection) -> tuple[int, int]:
    """Return how many messages are pending and how many abandoned."""
    ((pending, abandoned),) = await connection.fetch(_COUNT)
    return pending, abandoned


def _message(row: asyncpg.Record) -> StoredMessage:
    return StoredMessage(**(dict(row) | {"state": MessageState(row["state"])}))
