"""Owns how long the tokens are valid that any replica has issued."""

from datetime import datetime, timedelta

from authsvc.store.postgres.connector import Connection

# Written once a minute, so tokens may have been issued for a minute longer than it says. Rows are
# removed long after their last token has expired.
_NOTE = """
INSERT INTO token_validities AS known (validity, use_time) VALUES ($1, $2)
ON CONFLICT (validity) DO UPDATE SET use_time = excluded.use_time
    WHERE known.use_time < excluded.use_time - interval '1 minute'
"""
# In a transaction of its own: one that has noted its own row and waits for another would deadlock
# with a replica that does the reverse.
_DELETE_OLD = """
DELETE FROM token_validities
WHERE validity <> $1 AND use_time + validity < $2::timestamptz - interval '1 day'
"""


async def note(connection: Connection, validity: timedelta, now: datetime) -> None:
    """Note that tokens are issued which are valid for so long."""
    await connection.execute(_NOTE, validity, now)
    await connection.execute(_DELETE_OLD, validity, now)


_LONGEST = """
SELECT max(validity) FROM token_validities
WHERE use_time + validity > $1::timestamptz - interval '2 minutes'
"""


async def longest(connection: Connection, now: datetime) -> timedelta:
    """Return how long the longest is valid of the tokens that may not have expired; 0 of none."""
    found: timedelta | None = await connection.fetchval(_LONGEST, now)
    return found or timedelta()
