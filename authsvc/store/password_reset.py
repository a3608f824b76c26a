"""Owns the statement that replaces a forgotten password."""

from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.failed_logins import FORGET_FAILURES_BY_ONE_PROOF
from authsvc.store.postgres.database import Connection

_REPLACE = f"""
UPDATE users SET password_hash = $2, pepper_id = $3, update_time = $4,
    password_change_required = false,
    {FORGET_FAILURES_BY_ONE_PROOF}
WHERE user_id = $1
"""  # noqa: S608 - made of constants


async def replace(
    connection: Connection, user_id: UserId, phc: str, pepper_id: str | None, now: datetime
) -> None:
    """Store a password hash over any other; reset the failures if no second factor is required.

    The user is active, and the caller has locked the user's row.
    """
    await connection.execute(_REPLACE, user_id, phc, pepper_id, now)
