"""Owns the statements that erase an account."""

from collections.abc import Sequence
from datetime import datetime

from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.database import Connection

_LIST_SESSIONS = "SELECT session_id FROM sessions WHERE user_id = $1 AND revoke_time IS NULL"


async def list_sessions(connection: Connection, user_id: UserId) -> Sequence[SessionId]:
    """Return the user's unrevoked sessions; the caller has locked the user's row."""
    return [SessionId(row["session_id"]) for row in await connection.fetch(_LIST_SESSIONS, user_id)]


_DELETE_CODES_OF_NOBODY = """
DELETE FROM one_time_codes WHERE user_id IS NULL AND email_canonical =
    (SELECT email_canonical FROM users WHERE user_id = $1)
"""


async def delete_codes_of_nobody(connection: Connection, user_id: UserId) -> None:
    """Delete the codes that were requested before any account had the user's address."""
    await connection.execute(_DELETE_CODES_OF_NOBODY, user_id)


_DELETE = "DELETE FROM users WHERE user_id = $1"


async def delete(connection: Connection, user_id: UserId) -> None:
    """Delete a user's row and all rows that depend on it."""
    await connection.execute(_DELETE, user_id)


_FIND_BATCH_END = """
SELECT occur_time FROM audit_events
WHERE user_id = $1 AND ($2::timestamptz IS NULL OR occur_time > $2)
ORDER BY occur_time OFFSET $3 LIMIT 1
"""


async def find_batch_end(
    connection: Connection, user_id: UserId, after: datetime | None, size: int
) -> datetime | None:
    """Return the time of the user's `size`-th audit event after that time; None if there are fewer.

    Other events of the same time belong to the same batch.
    """
    end: datetime | None = await connection.fetchval(_FIND_BATCH_END, user_id, after, size - 1)
    return end


# The condition excludes scrubbed events: writing them again would double the table.
_SCRUB = """
UPDATE audit_events SET ip = NULL, user_agent = '', detail = (
    SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(detail)
    WHERE key = ANY ($4::text[]) AND type <> ALL ($5::text[]))
WHERE user_id = $1
    AND ($2::timestamptz IS NULL OR occur_time > $2)
    AND ($3::timestamptz IS NULL OR occur_time <= $3)
    AND (ip IS NOT NULL OR user_agent <> ''
        OR CASE WHEN type = ANY ($5::text[]) THEN detail ELSE detail - $4::text[] END <> '{}')
"""


async def scrub_events(
    connection: Connection,
    user_id: UserId,
    kept_details: Sequence[str],
    *,
    emptied: Sequence[str] = (),
    after: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Remove IP, user agent and all details except those to keep from the user's audit events.

    Those of the types in `emptied` keep none.
    """
    await connection.execute(_SCRUB, user_id, after, until, kept_details, emptied)
