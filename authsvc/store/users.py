"""Owns the rows of users: inserts, reads, locks, status, and the counts of failed logins.

`failed_logins` explains how failed logins are counted.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from authsvc.models.ids import UserId
from authsvc.models.users import LockedUser, User, UserOrigin, UserStatus
from authsvc.store.decoys import WRITE_DECOY
from authsvc.store.failed_logins import FORGET_FAILURES, FORGET_FAILURES_BY_ONE_PROOF
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class LoginSubject:
    """The account that a login is for; `known_device` if the device has logged in to it before.

    `known_may_fail` means that the known devices of the account may still fail.
    """

    user_id: UserId
    status: UserStatus
    known_device: bool
    known_may_fail: bool = True


@dataclass(frozen=True, slots=True)
class Credential:
    """An account's password hash; `phc` is None if the account has no password.

    `pepper_id` is None if the hash was imported from another system.
    """

    user_id: UserId
    phc: str | None = field(repr=False)
    pepper_id: str | None


_COLUMNS = """
    user_id, email, display_name, roles, status, create_time, email_verify_time, has_second_factor,
    last_login_time, password_change_required, token_revoke_time
"""
_INSERT = """
INSERT INTO users (user_id, email, email_canonical, display_name, password_hash, pepper_id,
                   roles, status, origin, create_time, update_time, email_verify_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11)
ON CONFLICT (email_canonical) DO NOTHING
RETURNING user_id
"""


async def insert(
    connection: Connection,
    user: User,
    *,
    email_canonical: str,
    origin: UserOrigin,
    phc: str | None = None,
    pepper_id: str | None = None,
) -> bool:
    """Store a new account; return False if its address is taken.

    Without `phc`, the account has no password.
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
        origin,
        user.create_time,
        user.email_verify_time,
    )
    return inserted is not None


_GET = f"SELECT {_COLUMNS} FROM users WHERE user_id = $1"  # noqa: S608 - made of constants


async def get(connection: Connection, user_id: UserId) -> User | None:
    """Return the account with this id, active or not."""
    row = await connection.fetchrow(_GET, user_id)
    return None if row is None else User(**_fields(row))


# The weaker lock still lets others insert rows that refer to the user. A deletion conflicts with
# those inserts, so it takes the stronger lock at once: upgrading later could deadlock.
_LOCK = f"{_GET} FOR NO KEY UPDATE"
_LOCK_TO_DELETE = f"{_GET} FOR UPDATE"


async def lock_user(
    connection: Connection, user_id: UserId, *, to_delete: bool = False
) -> LockedUser | None:
    """Lock the user's row until the transaction ends; return the account, active or not.

    Returns None if there is no such account. While the row is locked, no other transaction opens a
    session for this user, ends several of them, adds or removes a way to log in, or changes the
    status.
    """
    row = await connection.fetchrow(_LOCK_TO_DELETE if to_delete else _LOCK, user_id)
    return None if row is None else LockedUser(**_fields(row))


# The update locks the row: concurrent logins and status changes wait until this transaction ends.
_SET_STATUS = f"""
UPDATE users SET status = $3, {FORGET_FAILURES}, update_time = $4
WHERE user_id = $1 OR email_canonical = $2
RETURNING user_id
"""  # noqa: S608 - made of constants


async def set_status(
    connection: Connection, account: UserId | str, status: UserStatus, now: datetime
) -> UserId | None:
    """Set the status of the account with this id or canonical address and reset its failures.

    Returns its id, or None if there is no such account.
    """
    found = await connection.fetchval(_SET_STATUS, *_id_or_address(account), status, now)
    return None if found is None else UserId(found)


_FIND_LOGIN_SUBJECT = """
SELECT users.user_id, users.status, devices.device_hash IS NOT NULL AS known_device,
    users.failed_device_logins < $3 AS known_may_fail
FROM users
LEFT JOIN devices ON devices.user_id = users.user_id
    AND devices.device_hash = $2 AND users.failed_device_logins < $3
WHERE users.email_canonical = $1
"""


async def find_login_subject(
    connection: Connection, email_canonical: str, device_hash: bytes | None, max_failures: int
) -> LoginSubject | None:
    """Return the account that a login is for.

    Once its known devices have failed `max_failures` times in a row, no device counts as known.
    """
    row = await connection.fetchrow(_FIND_LOGIN_SUBJECT, email_canonical, device_hash, max_failures)
    if row is None:
        return None
    return LoginSubject(
        UserId(row["user_id"]),
        UserStatus(row["status"]),
        row["known_device"],
        row["known_may_fail"],
    )


# The claim's commit does not wait for a flush: the answer is sent only after the commit that
# records the outcome, and that flushes this one too. So a login takes one flush whether the account
# exists or not.
_CLAIM_ATTEMPT = f"""
WITH claimed AS (
    UPDATE users SET failed_logins = failed_logins + (NOT $3)::integer,
        failed_device_logins = failed_device_logins + $3::boolean::integer
    WHERE email_canonical = $1 AND status = 'active'
        AND CASE WHEN $3 THEN failed_device_logins ELSE failed_logins END < $2
    RETURNING user_id, password_hash, pepper_id, set_config('synchronous_commit', 'off', true)
), decoy AS ({WRITE_DECOY})
SELECT user_id, password_hash, pepper_id FROM claimed
"""  # noqa: S608 - made of constants


async def claim_attempt(
    connection: Connection, email_canonical: str, max_failures: int, *, known_device: bool
) -> Credential | None:
    """Count a failed login in advance and return the hash to verify the password against.

    Returns None, and counts nothing, if no active account has the address, or if `max_failures`
    logins of this kind (from known devices, or from others) have failed since the last success.
    """
    row = await connection.fetchrow(_CLAIM_ATTEMPT, email_canonical, max_failures, known_device)
    return credential_from(row)


_FIND_CREDENTIAL = """
SELECT user_id, password_hash, pepper_id FROM users
WHERE email_canonical = $1 AND status = 'active'
"""


async def find_credential(connection: Connection, email_canonical: str) -> Credential | None:
    """Return the password hash of the active account with this address; count nothing."""
    return credential_from(await connection.fetchrow(_FIND_CREDENTIAL, email_canonical))


_RELEASE_ATTEMPT = """
UPDATE users SET failed_logins = greatest(failed_logins - (NOT $2)::integer, 0),
    failed_device_logins = greatest(failed_device_logins - $2::boolean::integer, 0)
WHERE user_id = $1
"""


async def release_attempt(
    connection: Connection, user_id: UserId | None, *, known_device: bool
) -> None:
    """Undo a claim whose password was never evaluated; do nothing if `user_id` is None."""
    await connection.execute(_RELEASE_ATTEMPT, user_id, known_device)


_CONFIRM_LOGIN = f"""
UPDATE users SET last_login_time = $3, {FORGET_FAILURES_BY_ONE_PROOF}
WHERE user_id = $1 AND status = 'active' AND password_hash = $2
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def confirm_login(
    connection: Connection, credential: Credential, now: datetime
) -> LockedUser | None:
    """Record a login and reset the failures of an active account that still has this password.

    If a second factor is required, the failures stay, for `reset_failures`. Returns None, and
    changes nothing, if the account is not active or its password has changed. The row stays locked
    until the transaction ends.
    """
    row = await connection.fetchrow(_CONFIRM_LOGIN, credential.user_id, credential.phc, now)
    return None if row is None else LockedUser(**_fields(row))


_CONFIRM = f"""
UPDATE users SET last_login_time = coalesce($2, last_login_time), {FORGET_FAILURES_BY_ONE_PROOF}
WHERE user_id = $1 AND status = 'active'
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def confirm(
    connection: Connection, user_id: UserId, login_time: datetime | None
) -> LockedUser | None:
    """Do the same as `confirm_login` for a user who proved their identity without the password.

    Without a `login_time`, the proof was not for a login, and none is recorded.
    """
    row = await connection.fetchrow(_CONFIRM, user_id, login_time)
    return None if row is None else LockedUser(**_fields(row))


_NOTE_LOGIN = f"""
UPDATE users SET last_login_time = $2 WHERE user_id = $1 AND status = 'active'
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def note_login(connection: Connection, user_id: UserId, now: datetime) -> LockedUser | None:
    """Record that another service logged an active user in, and lock the user's row.

    Failures are not reset, as nothing was proved here. Returns None if there is no such user.
    """
    row = await connection.fetchrow(_NOTE_LOGIN, user_id, now)
    return None if row is None else LockedUser(**_fields(row))


_RESET_FAILURES = f"UPDATE users SET {FORGET_FAILURES} WHERE user_id = $1"  # noqa: S608 - constants


async def reset_failures(connection: Connection, user_id: UserId) -> None:
    """Reset the failures of an account whose user has proved every required factor."""
    await connection.execute(_RESET_FAILURES, user_id)


_GET_CREDENTIAL = """
SELECT user_id, password_hash, pepper_id FROM users WHERE user_id = $1 AND status = 'active'
"""


async def get_credential(connection: Connection, user_id: UserId) -> Credential | None:
    """Return the password hash of an active account."""
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


_SET_DISPLAY_NAME = f"""
UPDATE users SET display_name = $2, update_time = $3
WHERE user_id = $1 AND status = 'active'
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def set_display_name(
    connection: Connection, user_id: UserId, display_name: str, now: datetime
) -> User | None:
    """Set the display name of an active account and return the account."""
    row = await connection.fetchrow(_SET_DISPLAY_NAME, user_id, display_name, now)
    return None if row is None else User(**_fields(row))


def credential_from(row: asyncpg.Record | None) -> Credential | None:
    """Return the password hash in a row of users."""
    if row is None:
        return None
    return Credential(UserId(row["user_id"]), row["password_hash"], row["pepper_id"])


def _id_or_address(account: UserId | str) -> tuple[UserId | None, str | None]:
    return (None, account) if isinstance(account, str) else (account, None)


def _fields(row: asyncpg.Record) -> dict[str, Any]:
    """Return the fields of `User` in a row of `_COLUMNS`."""
    return dict(row) | {"roles": tuple(row["roles"]), "status": UserStatus(row["status"])}
