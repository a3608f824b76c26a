"""Owns the rows of audit_forwards: who forwards audit events, and how far they have got.

All times are those of the database.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from authsvc.store.postgres.connector import Connection


@dataclass(frozen=True, slots=True)
class Forward:
    """How far events have been forwarded to a target; `holder_id` identifies who forwards them.

    `position` is None while a time span is forwarded. Every event committed before `forward_time`
    has been forwarded.
    """

    holder_id: UUID
    position: str | None
    forward_time: datetime


# The row of a target begins with what is committed from now on.
_BEGIN = """
INSERT INTO audit_forwards (target, holder_id, claim_until, forward_time)
VALUES ($1, $2, '-infinity', now()) ON CONFLICT DO NOTHING
"""
_CLAIM = """
UPDATE audit_forwards SET holder_id = $2, claim_until = clock_timestamp() + $3::interval
WHERE target = $1 AND (holder_id = $2 OR claim_until < clock_timestamp())
"""
_GET = "SELECT holder_id, position, forward_time FROM audit_forwards WHERE target = $1"


async def claim(
    connection: Connection, target: str, holder_id: UUID, lease: timedelta
) -> Forward | None:
    """Claim a target, or renew the claim; return None if another replica holds it.

    Only the statement that claims changes the row, and one replica at most has claimed it.
    """
    if not _changed(await connection.execute(_CLAIM, target, holder_id, lease)):
        await connection.execute(_BEGIN, target, holder_id)
        return None
    return await get(connection, target)


async def get(connection: Connection, target: str) -> Forward | None:
    """Return how far a target is, or None if nothing has been forwarded to it."""
    row = await connection.fetchrow(_GET, target)
    return Forward(row["holder_id"], row["position"], row["forward_time"]) if row else None


_ADVANCE = """
UPDATE audit_forwards SET position = $3, forward_time = $4
WHERE target = $1 AND holder_id = $2
"""


async def advance(
    connection: Connection, target: str, forward: Forward, position: str | None, time: datetime
) -> bool:
    """Store how far the holder has got; return False if another replica has taken over."""
    done = await connection.execute(_ADVANCE, target, forward.holder_id, position, time)
    return _changed(done)


_RELEASE = (
    "UPDATE audit_forwards SET claim_until = '-infinity' WHERE target = $1 AND holder_id = $2"
)


async def release(connection: Connection, target: str, holder_id: UUID) -> None:
    """Let another replica claim the target at once."""
    await connection.execute(_RELEASE, target, holder_id)


def _changed(status: str) -> bool:
    return status.endswith(" 1")
