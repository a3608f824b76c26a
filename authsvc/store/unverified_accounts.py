"""Owns finding abandoned accounts: registered, but never verified, and unused for long."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.models.retention import Due
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account; `is_stale` if registered, unverified, and not changed or logged in to for long.

    A stale account may still be in use.
    """

    user_id: UserId
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Period:
    """The times before which a stale account was last changed and last logged in to."""

    last_change: datetime
    last_login: datetime


_STALE = """(
    origin IS NOT DISTINCT FROM 'register' AND status = 'active' AND email_verify_time IS NULL
    AND greatest(create_time, update_time) < $2 AND coalesce(last_login_time < $3, true))
"""
# Staleness is a column, not a filter: finding a few stale accounts would scan the whole table.
_LIST = f"""
SELECT user_id, {_STALE} AS is_stale FROM users
WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $4
"""  # noqa: S608 - made of constants


async def list_after(
    connection: Connection, user_id: UserId | None, limit: int, period: Period
) -> Sequence[Candidate]:
    """Return the next accounts, stale or not, in order of their ids."""
    rows = await connection.fetch(_LIST, user_id, period.last_change, period.last_login, limit)
    return [Candidate(row["user_id"], row["is_stale"]) for row in rows]


# $1 is not used here.
_FIND_DUE = f"""
WITH unverified AS (
    SELECT greatest(create_time, update_time) AS change_time, {_STALE}
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.user_id = u.user_id)
        AND NOT EXISTS (SELECT FROM identities i WHERE i.user_id = u.user_id)
        AND NOT EXISTS (SELECT FROM factors f WHERE f.user_id = u.user_id)
        AND NOT EXISTS (SELECT FROM api_keys k WHERE k.user_id = u.user_id) AS is_due
    FROM users u
    WHERE $1::uuid IS NULL AND origin = 'register' AND status = 'active'
        AND email_verify_time IS NULL)
SELECT count(*) FILTER (WHERE is_due) AS count, min(change_time) AS oldest_time,
    min(change_time) FILTER (WHERE change_time >= $2) AS next_end_time
FROM unverified
"""  # noqa: S608 - made of constants


async def find_due(connection: Connection, period: Period) -> Due:
    """Return how many accounts are abandoned, and when others were last changed."""
    [row] = await connection.fetch(_FIND_DUE, None, period.last_change, period.last_login)
    return Due(row["count"], row["oldest_time"], row["next_end_time"])


_IS_ABANDONED = f"""
SELECT EXISTS (SELECT FROM users WHERE user_id = $1 AND {_STALE})
    AND NOT EXISTS (SELECT FROM sessions WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM identities WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM factors WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM api_keys WHERE user_id = $1)
"""  # noqa: S608 - made of constants


async def is_abandoned(connection: Connection, user_id: UserId, period: Period) -> bool:
    """Return whether an account is stale and has no session, identity, factor or API key.

    A session that has ended counts as long as its row is kept.
    """
    arguments = (user_id, period.last_change, period.last_login)
    return bool(await connection.fetchval(_IS_ABANDONED, *arguments))
