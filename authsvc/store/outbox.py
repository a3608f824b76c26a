"""Owns the rows of the outbox: messages to users, from enqueueing to delivery."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from authsvc.models.ids import UserId
from authsvc.models.messages import MessageRecord, MessageState
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A row to insert; a decoy is never claimed.

    If `max_recent` is given, the row is skipped for a user who got that many messages of its kind
    after `since`.
    """

    message_id: UUID
    kind: str
    user_id: UserId | None
    sealed_content: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime
    decoy: bool = False
    max_recent: int | None = None
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
    """Insert a message; the doorbell rings for the deliverers once it is committed.

    Return False if it was skipped.
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
        row.max_recent,
        row.since,
    )
    if inserted is not None:
        ring_after_commit(connection, Channel.OUTBOX)
    return inserted is not None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A row as it was read; `attempts` includes the attempt that it was claimed for."""

    message_id: UUID
    kind: str
    user_id: UserId | None
    sealed_content: bytes = field(repr=False)
    attempts: int
    create_time: datetime
    expire_time: datetime
    last_error: str


_CLAIM = """
UPDATE outbox SET attempts = attempts + 1, next_time = $2
WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM outbox
    WHERE state = 'pending' AND next_time <= $1 AND ($3 OR expire_time <= $1)
    ORDER BY next_time LIMIT $4 FOR UPDATE SKIP LOCKED))
RETURNING message_id, kind, user_id, sealed_content, attempts, create_time, expire_time, last_error
"""


async def claim(
    connection: Connection, now: datetime, until: datetime, limit: int, *, only_expired: bool
) -> list[StoredMessage]:
    """Claim due messages; nobody else can claim them before `until`."""
    rows = await connection.fetch(_CLAIM, now, until, not only_expired, limit)
    return [StoredMessage(**row) for row in rows]


# The content is no longer needed. A replica that has claimed the message since must see that it was
# sent.
_MARK_SENT = """
UPDATE outbox SET state = 'sent', end_time = $2, sealed_content = '', last_error = ''
WHERE message_id = $1 AND state = 'pending'
"""


async def mark_sent(connection: Connection, message_id: UUID, now: datetime) -> None:
    """Mark a message as delivered, and delete its content and recipient."""
    await connection.execute(_MARK_SENT, message_id, now)


_POSTPONE = """
UPDATE outbox SET next_time = $3, last_error = $4
WHERE message_id = $1 AND attempts = $2 AND state = 'pending'
"""


async def postpone(
    connection: Connection, message: StoredMessage, next_time: datetime, error: str
) -> None:
    """Record why the attempt failed and when to try next, unless another attempt has started."""
    await connection.execute(_POSTPONE, message.message_id, message.attempts, next_time, error)


_ABANDON = """
UPDATE outbox SET state = 'abandoned', end_time = $3, last_error = $4
WHERE message_id = $1 AND attempts = $2 AND state = 'pending'
RETURNING true
"""


async def abandon(
    connection: Connection, message: StoredMessage, now: datetime, error: str
) -> bool:
    """Abandon a message; return False if it has ended or another attempt has started."""
    arguments = (message.message_id, message.attempts, now, error)
    return await connection.fetchval(_ABANDON, *arguments) is not None


_LIST = """
SELECT message_id, kind, user_id, state, attempts, create_time, next_time, end_time, last_error
FROM outbox WHERE state = $1 ORDER BY create_time DESC LIMIT $2
"""


async def list_in_state(
    connection: Connection, state: MessageState, limit: int
) -> Sequence[MessageRecord]:
    """Return the newest messages in this state."""
    rows = await connection.fetch(_LIST, state.value, limit)
    return [MessageRecord(**(dict(row) | {"state": MessageState(row["state"])})) for row in rows]


_LOCK_ABANDONED = """
SELECT message_id, kind, user_id, sealed_content, attempts, create_time, expire_time, last_error
FROM outbox WHERE message_id = $1 AND state = 'abandoned' FOR UPDATE
"""


async def lock_abandoned(connection: Connection, message_id: UUID) -> StoredMessage | None:
    """Return an abandoned message, locked until the end of the transaction."""
    row = await connection.fetchrow(_LOCK_ABANDONED, message_id)
    return StoredMessage(**row) if row else None


_REVIVE = """
UPDATE outbox SET state = 'pending', end_time = NULL, next_time = $2, expire_time = $3
WHERE message_id = $1
"""


async def revive(
    connection: Connection, message_id: UUID, now: datetime, expire_time: datetime
) -> None:
    """Make an abandoned message pending again."""
    await connection.execute(_REVIVE, message_id, now, expire_time)
    ring_after_commit(connection, Channel.OUTBOX)


_DELETE_ENDED = """
DELETE FROM outbox WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM outbox WHERE end_time < $1
    ORDER BY end_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_ended(connection: Connection, ended_before: datetime, limit: int) -> int:
    """Delete messages and decoys that were sent or abandoned before that time; return how many."""
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
