"""Owns the statements that replace a user's password."""

from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class PasswordAccount:
    """The account whose password is to be changed; the address as entered and in canonical form."""

    email: str
    email_canonical: str
    display_name: str
    has_password: bool


@dataclass(frozen=True, slots=True)
class Replacement:
    """The hash to store in place of `expected`, which is None if the account has no password."""

    expected: str | None = field(repr=False)
    phc: str = field(repr=False)
    pepper_id: str | None


_FIND_ACCOUNT = """
SELECT email, email_canonical, display_name, password_hash IS NOT NULL AS has_password
FROM users WHERE user_id = $1 AND status = 'active'
"""


async def find_account(connection: Connection, user_id: UserId) -> PasswordAccount | None:
    """Return an active account."""
    row = await connection.fetchrow(_FIND_ACCOUNT, user_id)
    return None if row is None else PasswordAccount(**row)


_DELETE_RESET_CODES = """
DELETE FROM one_time_codes WHERE user_id = $1 AND purpose = 'reset_password'
"""


async def delete_reset_codes(connection: Connection, user_id: UserId) -> None:
    """Delete the user's password reset codes; the caller has locked the user's row."""
    await connection.execute(_DELETE_RESET_CODES, user_id)


_REPLACE = """
UPDATE users SET password_hash = $3, pepper_id = $4, update_time = $5,
    password_change_required = false
WHERE user_id = $1 AND status = 'active' AND password_hash IS NOT DISTINCT FROM $2
RETURNING user_id
"""


async def replace(
    connection: Connection, user_id: UserId, replacement: Replacement, now: datetime
) -> bool:
    """Store a new password hash; return False if the expected one was replaced meanwhile.

    The user's row stays locked until the transaction ends.
    """
    replaced = await connection.fetchval(
        _REPLACE,
        user_id,
        replacement.expected,
        replacement.phc,
        replacement.pepper_id,
        now,
    )
    return replaced is not None
