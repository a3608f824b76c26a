"""Owns the e-mail addresses of users: lookup, verification and change."""

from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from authsvc.errors import email_taken
from authsvc.models.ids import UserId
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Addressee:
    """A user as the owner of an address: mail is sent to `email` only."""

    user_id: UserId
    email: str = field(repr=False)
    email_canonical: str = field(repr=False)
    display_name: str = field(repr=False)
    active: bool
    verified: bool

    @property
    def values(self) -> dict[str, str]:
        """Values that messages to the user may contain."""
        return {"display_name": self.display_name}


_FIND = """
SELECT user_id, email, email_canonical, display_name, status, email_verify_time FROM users
WHERE email_canonical = $1
"""


async def find(connection: Connection, email_canonical: str) -> Addressee | None:
    """Return the user who has this address."""
    return _addressee(await connection.fetchrow(_FIND, email_canonical))


_OF_USER = """
SELECT user_id, email, email_canonical, display_name, status, email_verify_time FROM users
WHERE user_id = $1
"""


async def of_user(connection: Connection, user_id: UserId) -> Addressee | None:
    """Return the user with this id."""
    return _addressee(await connection.fetchrow(_OF_USER, user_id))


_VERIFY = """
UPDATE users SET email_verify_time = coalesce(users.email_verify_time, $3)
FROM (
    SELECT user_id, email_verify_time FROM users
    WHERE user_id = $1 AND email_canonical = $2 AND status = 'active'
    FOR NO KEY UPDATE
) AS before
WHERE users.user_id = before.user_id
RETURNING users.user_id, email, email_canonical, display_name, status, before.email_verify_time
"""


async def verify(
    connection: Connection, user_id: UserId, email_canonical: str, now: datetime
) -> Addressee | None:
    """Record that the user owns this address; return the user as before the update.

    Returns None if the user is not active or has another address by now. The time of the first
    verification is kept. The row stays locked until the transaction ends.
    """
    return _addressee(await connection.fetchrow(_VERIFY, user_id, email_canonical, now))


_CHANGE = """
UPDATE users SET email = $3, email_canonical = $4, email_verify_time = $5, update_time = $5
WHERE user_id = $1 AND email_canonical = $2 AND status = 'active'
RETURNING user_id
"""


async def change(
    connection: Connection, addressee: Addressee, email: str, email_canonical: str, now: datetime
) -> bool:
    """Change the user's address to one that is now verified.

    Returns False if the user is no longer active or no longer has the address of `addressee`.

    Raises:
        AlreadyExists: EMAIL_TAKEN; the transaction has failed.
    """
    try:
        changed = await connection.fetchval(
            _CHANGE,
            addressee.user_id,
            addressee.email_canonical,
            email,
            email_canonical,
            now,
        )
    except asyncpg.UniqueViolationError:
        raise email_taken() from None
    return changed is not None


def _addressee(row: asyncpg.Record | None) -> Addressee | None:
    if row is None:
        return None
    return Addressee(
        user_id=UserId(row["user_id"]),
        email=row["email"],
        email_canonical=row["email_canonical"],
        display_name=row["display_name"],
        active=row["status"] == UserStatus.ACTIVE,
        verified=row["email_verify_time"] is not None,
    )
