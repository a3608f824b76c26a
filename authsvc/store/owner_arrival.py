"""Owns handing over the rows of an account to the owner of its address, who just came."""

from datetime import datetime

from authsvc.models.users import User
from authsvc.store.postgres.database import Connection

# All that whoever made the account could come back with, or wait with for the owner to act upon.
_TAKE_OVER = """
WITH factors_gone AS (DELETE FROM factors WHERE user_id = $1),
     recovery_codes_gone AS (DELETE FROM recovery_codes WHERE user_id = $1),
     challenges_gone AS (DELETE FROM challenges WHERE user_id = $1),
     codes_gone AS (DELETE FROM one_time_codes WHERE user_id = $1),
     identities_gone AS (DELETE FROM identities WHERE user_id = $1),
     keys_gone AS (DELETE FROM api_keys WHERE user_id = $1),
     devices_gone AS (DELETE FROM devices WHERE user_id = $1)
UPDATE users SET email = $2, display_name = $3, password_hash = NULL, pepper_id = NULL,
    has_second_factor = false, failed_logins = 0, failed_device_logins = 0,
    email_verify_time = $4, update_time = $4
WHERE user_id = $1
"""


async def take_over(connection: Connection, owner: User, now: datetime) -> None:
    """Leave of an account nothing but its id, roles and age, and what `owner` says.

    Without password, factors, codes, identities, API keys and devices; the address is verified.
    Sessions are not ended. The caller holds the user's row.
    """
    await connection.execute(_TAKE_OVER, owner.user_id, owner.email, owner.display_name, now)
