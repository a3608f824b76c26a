"""Owns the statement by which a forgotten password is replaced."""

from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.failed_logins import FORGET_FAILURES_BY_ONE_PROOF
from authsvc.store.postgres.database import Connection

_REPLACE = f"""
UPDATE users SET password_hash = $2, pepper_id = $3, update_time = $4,
    {FORGET_FAILURES_BY_ONE_PROOF}
WHERE user_id = $1
"""  # noqa: S608 - made of constants


async def replace(
    connection: Connection, user_id: UserId, phc: str, pepper_id: str | None, now: datetime
) -> None:
    """Store a password, whatever the one before, and forget the failures of who has one factor.

    The caller holds the row of the user, who is active.
    """
    await connection.execute(_REPLACE, user_id, phc, pepper_id, now)
