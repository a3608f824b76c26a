"""Owns the truncation of stored IP addresses to their networks, a limited number at a time."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.models.retention import Due
from authsvc.store.postgres.connector import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_WHOLE_SESSION = "(is_whole_address(ip) OR is_whole_address(other_ip))"
# A session that is bound to its addresses needs them until it ends ($2).
_OLD_SESSION = (
    f"{_WHOLE_SESSION} AND create_time < $1 AND ($2::timestamptz IS NULL OR end_time < $2)"
)
_TRUNCATE_SESSIONS = f"""
UPDATE sessions SET ip = truncated_address(ip), other_ip = truncated_address(other_ip)
WHERE session_id = ANY (ARRAY(
    SELECT session_id FROM sessions WHERE {_OLD_SESSION}
    ORDER BY create_time LIMIT $3 FOR UPDATE SKIP LOCKED))
"""  # noqa: S608 - made of constants


async def truncate_sessions(
    connection: Connection, before: datetime, ended_before: datetime | None, limit: int
) -> int:
    """Truncate the addresses of sessions opened before that time; return of how many.

    If `ended_before` is given, only those of sessions that have ended by then.
    """
    tag = await connection.execute(_TRUNCATE_SESSIONS, before, ended_before, limit)
    return int(tag.rpartition(" ")[2])


_FIND_SESSIONS = f"""
SELECT count(*) FILTER (WHERE {_OLD_SESSION}) AS count, min(create_time) AS oldest_time,
    min(create_time) FILTER (WHERE create_time >= $1) AS next_end_time
FROM sessions WHERE {_WHOLE_SESSION}
"""  # noqa: S608 - made of constants


async def find_sessions(
    connection: Connection, before: datetime, ended_before: datetime | None
) -> Due:
    """Return how many sessions `truncate_sessions` would change."""
    [row] = await connection.fetch(_FIND_SESSIONS, before, ended_before)
    return Due(row["count"], row["oldest_time"], row["next_end_time"])


# One replica at a time. The ids of events ascend with their times.
_LOCK_PROGRESS = "SELECT event_id FROM address_truncation FOR UPDATE SKIP LOCKED"
_FIND_END = """
SELECT event_id FROM audit_events WHERE event_id > $1 AND event_id < $2 AND occur_time < $3
ORDER BY event_id OFFSET $4 LIMIT 1
"""
# Events that somebody holds are skipped, as waiting for several could end in a deadlock with the
# deletion of an account, which removes their addresses.
_TRUNCATE_EVENTS = """
WITH due AS (
    SELECT event_id, occur_time FROM audit_events
    WHERE event_id > $1 AND event_id <= $2 AND occur_time < $3 AND is_whole_address(ip)),
held AS (
    SELECT e.event_id, e.occur_time FROM audit_events e JOIN due USING (event_id, occur_time)
    ORDER BY e.event_id FOR UPDATE OF e SKIP LOCKED),
truncated AS (
    UPDATE audit_events e SET ip = truncated_address(ip) FROM held
    WHERE e.event_id = held.event_id AND e.occur_time = held.occur_time RETURNING 1)
SELECT (SELECT count(*) FROM truncated) AS count,
    (SELECT count(*) FROM due) = (SELECT count(*) FROM held) AS complete
"""
_NOTE_PROGRESS = "UPDATE address_truncation SET event_id = $1"


async def truncate_events(connection: Connection, before: datetime, limit: int) -> tuple[int, bool]:
    """Go through the next `limit` events before that time and truncate their addresses.

    Return how many were truncated, and whether there may be more.

    Must run in a transaction.
    """
    after = await connection.fetchval(_LOCK_PROGRESS)
    if after is None:
        return 0, False
    last = _first_id(before)
    end = await connection.fetchval(_FIND_END, after, last, before, limit - 1)
    [row] = await connection.fetch(_TRUNCATE_EVENTS, after, end or last, before)
    # Events that were skipped are found again by the next run.
    if not row["complete"]:
        return row["count"], False
    if (reached := end or last) > after:
        await connection.execute(_NOTE_PROGRESS, reached)
    return row["count"], end is not None


_FIND_EVENTS = """
SELECT count(*) FILTER (WHERE occur_time < $1) AS count, min(occur_time) AS oldest_time,
    min(occur_time) FILTER (WHERE occur_time >= $1) AS next_end_time
FROM audit_events WHERE is_whole_address(ip)
"""


async def find_events(connection: Connection, before: datetime) -> Due:
    """Return how many audit events `truncate_events` would change."""
    [row] = await connection.fetch(_FIND_EVENTS, before)
    return Due(row["count"], row["oldest_time"], row["next_end_time"])


def _first_id(time: datetime) -> UUID:
    """Return the smallest id that an event of this time may have."""
    return UUID(int=((time - _EPOCH) // _MILLISECOND) << 80)
