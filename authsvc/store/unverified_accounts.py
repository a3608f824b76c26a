"""Owns finding the accounts that somebody registered, never proved the address of, and left."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account; `is_stale`: unverified and unchanged for long, which does not say unused."""

    user_id: UserId
    is_stale: bool


_STALE = "status = 'active' AND email_verify_time IS NULL AND greatest(create_time, update_time) <"
# The condition is no filter: finding a few among many would search the whole table.
_LIST = f"""
SELECT user_id, {_STALE} $3 AS is_stale FROM users
WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2
"""  # noqa: S608 - made of constants


async def list_after(
    connection: Connection, user_id: UserId | None, limit: int, before: datetime
) -> Sequence[Candidate]:
    """Return the next accounts in the order of their ids, stale since `before` or not."""
    rows = await connection.fetch(_LIST, user_id, limit, before)
    return [Candidate(row["user_id"], row["is_stale"]) for row in rows]


_IS_ABANDONED = f"""
SELECT EXISTS (
    SELECT FROM users WHERE user_id = $1 AND {_STALE} $2
        AND EXISTS (SELECT FROM audit_events WHERE audit_events.user_id = $1
                    AND occur_time = create_time AND type = $3)
        AND NOT EXISTS (SELECT FROM audit_events WHERE audit_events.user_id = $1
                        AND occur_time >= $2 AND type = ANY ($4::text[])))
    AND NOT EXISTS (SELECT FROM sessions WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM identities WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM factors WHERE user_id = $1)
    AND NOT EXISTS (SELECT FROM api_keys WHERE user_id = $1)
"""  # noqa: S608 - made of constants


async def is_abandoned(
    connection: Connection,
    user_id: UserId,
    before: datetime,
    *,
    making: str,
    uses: Sequence[str],
) -> bool:
    """Return whether a stale account was made by an event of type `making` and is not in use.

    It has no session, ended or not, no identity, factor or API key, and no event since `before` of
    the types of `uses`.
    """
    arguments = (user_id, before, making, uses)
    return bool(await connection.fetchval(_IS_ABANDONED, *arguments))
