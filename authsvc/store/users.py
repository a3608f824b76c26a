"""Owns the rows of users: their making, their reading, and their count of failed logins."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from authsvc.models.ids import UserId
from authsvc.models.users import User, UserStatus
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class LoginSubject:
    """The account that a login is for; `known_device`: its device logged in there before."""

    user_id: UserId
    status: UserStatus
    known_device: bool


@dataclass(frozen=True, slots=True)
class Credential:
    """An account's stored password; `phc` is None if it has none.

    Without `pepper_id` another system made the hash.
    """

    user_id: UserId
    phc: str | None = field(repr=False)
    pepper_id: str | None


_INSERT = """
INSERT INTO users (user_id, email, email_canonical, display_name, password_hash, pepper_id,
                   roles, status, create_time, update_time, email_verify_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
ON CONFLICT (email_canonical) DO NOTHING
RETURNING user_id
"""


async def insert(
    connection: Connection,
    user: User,
    *,
    email_canonical: str,
    phc: str | None = None,
    pepper_id: str | None = None,
) -> bool:
    """Store a new account; return False if another account has its address.

    Without `phc` it has no password.
    """
    inserted = await connection.fetchval(
        _INSERT,
        user.user_id,
        user.email,
        email_canonical,
        user.display_name,
        phc,
        pepper_id,
        list(user.roles),
        user.status,
        user.create_time,
        user.email_verify_time,
    )
    return inserted is not None


_GET = """
SELECT user_id, email, display_name, roles, status, create_time, email_verify_time,
    has_second_factor
FROM users WHERE user_id = $1
"""


async def get(connection: Connection, user_id: UserId) -> User | None:
    """Return the account with this id."""
    row = await connection.fetchrow(_GET, user_id)
    return None if row is None else _user(row)


# An update locks the row: who logs in or disables at the same time waits for this one's end.
_SET_STATUS = """
UPDATE users SET status = $3, failed_logins = 0, failed_device_logins = 0, update_time = $4
WHERE user_id = $1 OR email_canonical = $2
RETURNING user_id
"""


async def set_status(
    connection: Connection, account: UserId | str, status: UserStatus, now: datetime
) -> UserId | None:
    """Set the status of the account with this id or canonical address and forget its failures.

    Returns its id, or None if there is no such account.
    """
    user_id, email = (None, account) if isinstance(account, str) else (account, None)
    found = await connection.fetchval(_SET_STATUS, user_id, email, status, now)
    return None if found is None else UserId(found)


_FIND_LOGIN_SUBJECT = """
SELECT users.user_id, users.status, devices.device_hash IS NOT NULL AS known_device
FROM users
LEFT JOIN devices ON devices.user_id = users.user_id
    AND devices.device_hash = $2 AND users.failed_device_logins < $3
WHERE users.email_canonical = $1
"""


async def find_login_subject(
    connection: Connection, email_canonical: str, device_hash: bytes | None, max_failures: int
) -> LoginSubject | None:
    """Return the account that a login is for.

    Once its known devices failed `max_failures` times in a row, no device of it is known.
    """
    row = await connection.fetchrow(_FIND_LOGIN_SUBJECT, email_canonical, device_hash, max_failures)
    if row is None:
        return None
    return LoginSubject(UserId(row["user_id"]), UserStatus(row["status"]), row["known_device"])


# The claim's commit waits for no flush: nothing is answered before the commit that records the
# outcome, which flushes this one too. So a login takes one flush whether the account exists or not.
_CLAIM_ATTEMPT = """
UPDATE users SET failed_logins = failed_logins + (NOT $3)::integer,
    failed_device_logins = failed_device_logins + $3::boolean::integer
WHERE email_canonical = $1 AND status = 'active'
    AND CASE WHEN $3 THEN failed_device_logins ELSE failed_logins END < $2
RETURNING user_id, password_hash, pepper_id, set_config('synchronous_commit', 'off', true)
"""


async def claim_attempt(
    connection: Connection, email_canonical: str, max_failures: int, *, known_device: bool
) -> Credential | None:
    """Count a failed login beforehand and return what the password is to be compared with.

    Those from known devices are counted together, and so are all others. Returns None, and counts
    nothing, if no active account has the address or `max_failures` logins of that kind failed since
    the last login of any kind that didn't (SP 800-63B-4, 3.2.2).
    """
    row = await connection.fetchrow(_CLAIM_ATTEMPT, email_canonical, max_failures, known_device)
    return credential_from(row)


_RELEASE_ATTEMPT = """
UPDATE users SET failed_logins = greatest(failed_logins - (NOT $2)::integer, 0),
    failed_device_logins = greatest(failed_device_logins - $2::boolean::integer, 0)
WHERE user_id = $1
"""


async def release_attempt(
    connection: Connection, user_id: UserId | None, *, known_device: bool
) -> None:
    """Take back a claim that led to no evaluation; None: there was none."""
    await connection.execute(_RELEASE_ATTEMPT, user_id, known_device)


# One proof of two resets nothing, or who knows the password could guess codes for ever.
_CONFIRM_LOGIN = """
UPDATE users SET failed_logins = CASE WHEN has_second_factor THEN failed_logins ELSE 0 END,
    failed_device_logins = CASE WHEN has_second_factor THEN failed_device_logins ELSE 0 END
WHERE user_id = $1 AND status = 'active' AND password_hash = $2
RETURNING user_id, email, display_name, roles, status, create_time, email_verify_time,
    has_second_factor
"""


async def confirm_login(connection: Connection, credential: Credential) -> User | None:
    """Forget the failures of an account that is still active and still has this password.

    With a second factor they stay, for `reset_failures`. Returns None, and changes nothing, if the
    account isn't active or hasn't the password. Its row stays locked until the transaction ends.
    """
    row = await connection.fetchrow(_CONFIRM_LOGIN, credential.user_id, credential.phc)
    return None if row is None else _user(row)


_CONFIRM = """
UPDATE users SET failed_logins = CASE WHEN has_second_factor THEN failed_logins ELSE 0 END,
    failed_device_logins = CASE WHEN has_second_factor THEN failed_device_logins ELSE 0 END
WHERE user_id = $1 AND status = 'active'
RETURNING user_id, email, display_name, roles, status, create_time, email_verify_time,
    has_second_factor
"""


async def confirm(connection: Connection, user_id: UserId) -> User | None:
    """Do as `confirm_login` for a user who proved who it is without the password."""
    row = await connection.fetchrow(_CONFIRM, user_id)
    return None if row is None else _user(row)


_RESET_FAILURES = """
UPDATE users SET failed_logins = 0, failed_device_logins = 0 WHERE user_id = $1
"""


async def reset_failures(connection: Connection, user_id: UserId) -> None:
    """Forget the failures of an account whose user proved all that is asked for."""
    await connection.execute(_RESET_FAILURES, user_id)


_GET_CREDENTIAL = """
SELECT user_id, password_hash, pepper_id FROM users WHERE user_id = $1 AND status = 'active'
"""


async def get_credential(connection: Connection, user_id: UserId) -> Credential | None:
    """Return the stored password of an active account."""
    row = await connection.fetchrow(_GET_CREDENTIAL, user_id)
    return credential_from(row)


_REPLACE_HASH = """
UPDATE users SET password_hash = $3, pepper_id = $4 WHERE user_id = $1 AND password_hash = $2
"""


async def replace_hash(
    connection: Connection, credential: Credential, *, phc: str, pepper_id: str | None
) -> None:
    """Store a new hash of the same password, unless the password was changed meanwhile."""
    await connection.execute(_REPLACE_HASH, credential.user_id, credential.phc, phc, pepper_id)


_SET_DISPLAY_NAME = """
UPDATE users SET display_name = $2, update_time = $3
WHERE user_id = $1 AND status = 'active'
RETURNING user_id, email, display_name, roles, status, create_time, email_verify_time,
    has_second_factor
"""


async def set_display_name(
    connection: Connection, user_id: UserId, display_name: str, now: datetime
) -> User | None:
    """Set the name to show for an active account and return the account."""
    row = await connection.fetchrow(_SET_DISPLAY_NAME, user_id, display_name, now)
    return None if row is None else _user(row)


def credential_from(row: asyncpg.Record | None) -> Credential | None:
    """Return the stored password in a row of users."""
    if row is None:
        return None
    return Credential(UserId(row["user_id"]), row["password_hash"], row["pepper_id"])


def _user(row: asyncpg.Record) -> User:
    roles: Sequence[str] = row["roles"]
    return User(
        user_id=UserId(row["user_id"]),
        email=row["email"],
        display_name=row["display_name"],
        roles=tuple(roles),
        status=UserStatus(row["status"]),
        create_time=row["create_time"],
        email_verify_time=row["email_verify_time"],
        has_second_factor=row["has_second_factor"],
    )
