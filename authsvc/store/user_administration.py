"""Owns the changes that operators make to the rows of users."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from authsvc.errors import email_taken
from authsvc.models.ids import UserId
from authsvc.store.failed_logins import FORGET_FAILURES
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Profile:
    """What an operator may change of a user: address, when it was verified, and name."""

    email: str = field(repr=False)
    email_canonical: str = field(repr=False)
    email_verify_time: datetime | None
    display_name: str = field(repr=False)


_GET_PROFILE = """
SELECT email, email_canonical, email_verify_time, display_name FROM users
WHERE user_id = $1 FOR NO KEY UPDATE
"""


async def lock_profile(connection: Connection, user_id: UserId) -> Profile | None:
    """Lock the user's row until the transaction ends; return what an operator may change of it."""
    row = await connection.fetchrow(_GET_PROFILE, user_id)
    return None if row is None else Profile(**row)


_SET_PROFILE = """
UPDATE users SET email = $2, email_canonical = $3, email_verify_time = $4, display_name = $5,
    update_time = $6
WHERE user_id = $1
"""


async def set_profile(
    connection: Connection, user_id: UserId, profile: Profile, now: datetime
) -> None:
    """Store what has changed of a user whose row is locked.

    Raises:
        AlreadyExists: EMAIL_TAKEN; the transaction has failed.
    """
    try:
        await connection.execute(
            _SET_PROFILE,
            user_id,
            profile.email,
            profile.email_canonical,
            profile.email_verify_time,
            profile.display_name,
            now,
        )
    except asyncpg.UniqueViolationError:
        raise email_taken() from None


_SET_ROLES = "UPDATE users SET roles = $2, update_time = $3 WHERE user_id = $1"


async def set_roles(
    connection: Connection, user_id: UserId, roles: Sequence[str], now: datetime
) -> None:
    """Replace the roles of a user whose row is locked."""
    await connection.execute(_SET_ROLES, user_id, roles, now)


_REQUIRE_CHANGE = """
UPDATE users SET password_change_required = true, update_time = $2 WHERE user_id = $1
"""


async def require_password_change(connection: Connection, user_id: UserId, now: datetime) -> None:
    """Let the present password of a user whose row is locked open no more sessions."""
    await connection.execute(_REQUIRE_CHANGE, user_id, now)


_UNLOCK = f"""
UPDATE users SET {FORGET_FAILURES}, update_time = $2 WHERE user_id = $1
RETURNING email_canonical,
    ARRAY(SELECT device_hash FROM devices d WHERE d.user_id = users.user_id) AS devices
"""  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What the limits on guesses at an account are counted by."""

    email_canonical: str = field(repr=False)
    devices: Sequence[bytes] = field(repr=False)


async def unlock(connection: Connection, user_id: UserId, now: datetime) -> Unlocked | None:
    """Reset the failures of a user; return None if there is no such user."""
    row = await connection.fetchrow(_UNLOCK, user_id, now)
    return None if row is None else Unlocked(**row)


# The condition on the time lets PostgreSQL skip partitions.
_LIST_FAILED_FROM = """
SELECT DISTINCT host(ip) AS ip FROM audit_events
WHERE user_id = $1 AND occur_time > $2 AND ip IS NOT NULL
    AND type IN ('user.login_failure', 'user.login_throttled')
LIMIT 1000
"""


async def list_failed_from(
    connection: Connection, user_id: UserId, since: datetime
) -> Sequence[str]:
    """Return the addresses from which logins to an account have failed since then."""
    return [row["ip"] for row in await connection.fetch(_LIST_FAILED_FROM, user_id, since)]
