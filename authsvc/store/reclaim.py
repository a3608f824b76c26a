"""Owns the reclaim of an account by the owner of its e-mail address."""

from datetime import datetime

from authsvc.models.users import User
from authsvc.store.failed_logins import FORGET_FAILURES
from authsvc.store.postgres.database import Connection

# Everything that the creator of the account could use to get back in, or leave for the owner to act
# on.
_TAKE_OVER = f"""
WITH factors_gone AS (DELETE FROM factors WHERE user_id = $1),
     recovery_codes_gone AS (DELETE FROM recovery_codes WHERE user_id = $1),
     challenges_gone AS (DELETE FROM challenges WHERE user_id = $1),
     codes_gone AS (DELETE FROM one_time_codes WHERE user_id = $1),
     identities_gone AS (DELETE FROM identities WHERE user_id = $1),
     keys_gone AS (DELETE FROM api_keys WHERE user_id = $1),
     devices_gone AS (DELETE FROM devices WHERE user_id = $1)
UPDATE users SET email = $2, display_name = $3, password_hash = NULL, pepper_id = NULL,
    has_second_factor = false, password_change_required = false, {FORGET_FAILURES},
    email_verify_time = $4, update_time = $4
WHERE user_id = $1
"""  # noqa: S608 - made of constants


async def take_over(connection: Connection, owner: User, now: datetime) -> None:
    """Keep only the id, roles and age of an account; take address and display name from `owner`.

    Password, factors, codes, identities, API keys and devices are deleted, and the address is
    marked as verified. Sessions are not ended. The caller has locked the user's row.
    """
    await connection.execute(_TAKE_OVER, owner.user_id, owner.email, owner.display_name, now)
