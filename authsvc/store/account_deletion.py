"""Owns the statements that erase an account."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Leaving:
    """An account to be erased: its address, and its sessions that were not ended."""

    email: str = field(repr=False)
    session_ids: Sequence[SessionId]


_LOCK = """
SELECT email, ARRAY(SELECT session_id FROM sessions
                    WHERE user_id = $1 AND revoke_time IS NULL) AS session_ids
FROM users WHERE user_id = $1 FOR UPDATE
"""


async def lock(connection: Connection, user_id: UserId) -> Leaving | None:
    """Hold the user's row until the transaction ends; None: no such user."""
    row = await connection.fetchrow(_LOCK, user_id)
    return None if row is None else Leaving(row["email"], row["session_ids"])


_DELETE_CODES_OF_NOBODY = """
DELETE FROM one_time_codes WHERE user_id IS NULL AND email_canonical =
    (SELECT email_canonical FROM users WHERE user_id = $1)
"""


async def delete_codes_of_nobody(connection: Connection, user_id: UserId) -> None:
    """Delete the codes that were asked for when nobody had the user's address yet."""
    await connection.execute(_DELETE_CODES_OF_NOBODY, user_id)


_DELETE = "DELETE FROM users WHERE user_id = $1"


async def delete(connection: Connection, user_id: UserId) -> None:
    """Delete a user's row and with it all that belongs to it."""
    await connection.execute(_DELETE, user_id)


_FIND_BATCH_END = """
SELECT occur_time FROM audit_events
WHERE user_id = $1 AND ($2::timestamptz IS NULL OR occur_time > $2)
ORDER BY occur_time OFFSET $3 LIMIT 1
"""


async def find_batch_end(
    connection: Connection, user_id: UserId, after: datetime | None, size: int
) -> datetime | None:
    """Return when the user's audit event number `size` after that time was; None: there are less.

    Events of the same time as that one belong to its batch.
    """
    end: datetime | None = await connection.fetchval(_FIND_BATCH_END, user_id, after, size - 1)
    return end


# The condition leaves out what was scrubbed before: writing it again would double the table.
_SCRUB = """
UPDATE audit_events SET ip = NULL, user_agent = '', detail = (
    SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(detail)
    WHERE key = ANY ($4::text[]))
WHERE user_id = $1
    AND ($2::timestamptz IS NULL OR occur_time > $2)
    AND ($3::timestamptz IS NULL OR occur_time <= $3)
    AND (ip IS NOT NULL OR user_agent <> '' OR detail - $4::text[] <> '{}')
"""


async def scrub_events(
    connection: Connection,
    user_id: UserId,
    kept_details: Sequence[str],
    *,
    after: datetime | None = None,
    until: datetime | None = None,
) -> None:
    """Remove ip, user agent and all details but the kept ones from the user's audit events."""
    await connection.execute(_SCRUB, user_id, after, until, kept_details)
