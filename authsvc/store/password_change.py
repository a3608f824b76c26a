"""Owns the statements by which a user's password is replaced."""

from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose password is to be changed; the address as given and in its canonical form."""

    email: str
    email_canonical: str
    display_name: str
    has_password: bool


@dataclass(frozen=True, slots=True)
class Replacement:
    """The hash to be stored in place of `expected`, which is None if there is no password."""

    expected: str | None = field(repr=False)
    phc: str = field(repr=False)
    pepper_id: str | None


_FIND_OWNER = """
SELECT email, email_canonical, display_name, password_hash IS NOT NULL AS has_password
FROM users WHERE user_id = $1 AND status = 'active'
"""


async def find_owner(connection: Connection, user_id: UserId) -> Owner | None:
    """Return an active account, as far as its password is concerned."""
    row = await connection.fetchrow(_FIND_OWNER, user_id)
    return None if row is None else Owner(**row)


_DELETE_RESET_CODES = """
DELETE FROM one_time_codes WHERE user_id = $1 AND purpose = 'reset_password'
"""


async def delete_reset_codes(connection: Connection, user_id: UserId) -> None:
    """Forget the codes to reset a password with; the caller holds the user's row."""
    await connection.execute(_DELETE_RESET_CODES, user_id)


_REPLACE = """
UPDATE users SET password_hash = $3, pepper_id = $4, update_time = $5
WHERE user_id = $1 AND status = 'active' AND password_hash IS NOT DISTINCT FROM $2
RETURNING user_id
"""


async def replace(
    connection: Connection, user_id: UserId, replacement: Replacement, now: datetime
) -> bool:
    """Store a new password, if the one before still stands; return whether it did.

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
