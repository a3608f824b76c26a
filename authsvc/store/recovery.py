"""Owns the statement by which a forgotten password is replaced."""

from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection

# One proof of two resets nothing, as in users.py.
_REPLACE = """
UPDATE users SET password_hash = $2, pepper_id = $3, update_time = $4,
    failed_logins = CASE WHEN has_second_factor THEN failed_logins ELSE 0 END,
    failed_device_logins = CASE WHEN has_second_factor THEN failed_device_logins ELSE 0 END
WHERE user_id = $1
"""


async def replace(
    connection: Connection, user_id: UserId, phc: str, pepper_id: str | None, now: datetime
) -> None:
    """Store a password, whatever the one before, and forget the failures of who has one factor.

    The caller holds the row of the user, who is active.
    """
    await connection.execute(_REPLACE, user_id, phc, pepper_id, now)
