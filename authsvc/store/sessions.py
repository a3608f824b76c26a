"""Owns the rows of sessions: found, kept alive, ended.

Locks: whoever ends or replaces several sessions of a user holds the user's row (`lock_owner`), what
keeps several sessions alive skips rows that are locked, and all else touches one row. So no two
statements wait for each other in a circle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason, Session
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Connection

# What `stored_session` reads, of sessions s and users u.
COLUMNS = """
    s.session_id, s.user_id, s.create_time, s.last_use_time, s.authentication_time,
    s.idle_expire_time, s.absolute_expire_time, host(s.ip) AS ip, s.user_agent, s.device_id,
    s.authentication_methods, s.csrf_hash, s.refresh_counter, s.revoke_time, s.revoke_reason,
    u.status, u.roles, s.token_hash, s.refresh_time
"""
_LAST_ID = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session and what only the service itself needs of its row.

    `token_hash` is the SHA-256 of the session token; `refresh_time` is when the refresh counter was
    last advanced.
    """

    session: Session
    token_hash: bytes = field(repr=False)
    refresh_time: datetime


@dataclass(frozen=True, slots=True)
class Owner:
    """What a session takes over from its user."""

    status: UserStatus
    roles: tuple[str, ...]


_LOCK_OWNER = "SELECT status, roles FROM users WHERE user_id = $1 FOR NO KEY UPDATE"


async def lock_owner(connection: Connection, user_id: UserId) -> Owner | None:
    """Hold the user's row until the transaction ends and return what it says; None: no such user.

    While it is held, no other transaction opens a session of this user, or ends several.
    """
    row = await connection.fetchrow(_LOCK_OWNER, user_id)
    return None if row is None else Owner(UserStatus(row["status"]), tuple(row["roles"]))


_HAS_ENDED = """
SELECT EXISTS (SELECT FROM sessions WHERE session_id = $1 AND revoke_time IS NOT NULL)
"""


async def has_ended(connection: Connection, session_id: SessionId) -> bool:
    """Return whether a session was ended, by what is committed now."""
    return bool(await connection.fetchval(_HAS_ENDED, session_id))


_FIND_BY_TOKEN = f"""
SELECT {COLUMNS} FROM sessions s JOIN users u USING (user_id) WHERE s.token_hash = any($1)
"""  # noqa: S608 - made of constants


async def find_by_token(
    connection: Connection, token_hashes: Sequence[bytes]
) -> Mapping[bytes, StoredSession]:
    """Return the sessions of these token hashes, ended ones too, by token hash."""
    rows = await connection.fetch(_FIND_BY_TOKEN, token_hashes)
    return {row["token_hash"]: stored_session(row) for row in rows}


_FIND = f"""
SELECT {COLUMNS} FROM sessions s JOIN users u USING (user_id) WHERE s.session_id = any($1)
"""  # noqa: S608 - made of constants


async def find(
    connection: Connection, session_ids: Sequence[SessionId]
) -> Mapping[SessionId, StoredSession]:
    """Return the sessions of these ids, ended ones too, by id."""
    rows = await connection.fetch(_FIND, session_ids)
    return {row["session_id"]: stored_session(row) for row in rows}


_LIST = f"""
SELECT {COLUMNS} FROM sessions s JOIN users u USING (user_id)
WHERE s.user_id = $1 AND s.revoke_time IS NULL AND s.idle_expire_time > $2
    AND u.status = 'active' AND s.session_id < $3
ORDER BY s.session_id DESC LIMIT $4
"""  # noqa: S608 - made of constants


async def list_active(
    connection: Connection, user_id: UserId, now: datetime, before: SessionId | None, limit: int
) -> list[Session]:
    """Return up to `limit` active sessions of a user, newest first, older than `before`."""
    rows = await connection.fetch(_LIST, user_id, now, before or _LAST_ID, limit)
    return [stored_session(row).session for row in rows]


_EXTEND = f"""
WITH free AS (
    SELECT session_id FROM sessions WHERE session_id = any($1) FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE sessions s
SET last_use_time = greatest(s.last_use_time, $2),
    idle_expire_time = greatest(s.idle_expire_time, least($3, s.absolute_expire_time))
FROM free, users u
WHERE s.session_id = free.session_id AND s.revoke_time IS NULL AND s.idle_expire_time > $2
    AND u.user_id = s.user_id AND u.status = 'active'
RETURNING {COLUMNS}
"""  # noqa: S608 - made of constants


async def extend(
    connection: Connection,
    session_ids: Sequence[SessionId],
    now: datetime,
    idle_expire_time: datetime,
) -> Mapping[SessionId, StoredSession]:
    """Extend those of these sessions that are active, never past their absolute end; return them.

    A row that another transaction holds is left out: it is being ended, refreshed or extended.
    """
    rows = await connection.fetch(_EXTEND, session_ids, now, idle_expire_time)
    return {row["session_id"]: stored_session(row) for row in rows}


_TOUCH = """
WITH used AS (
    SELECT s.session_id, noted.use_time
    FROM sessions s JOIN unnest($1::uuid[], $2::timestamptz[]) AS noted (session_id, use_time)
        USING (session_id)
    WHERE s.last_use_time <= noted.use_time - $3::interval AND s.revoke_time IS NULL
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE sessions s SET last_use_time = used.use_time
FROM used WHERE s.session_id = used.session_id
"""


async def touch(
    connection: Connection, use_times: Mapping[SessionId, datetime], interval: timedelta
) -> None:
    """Note when sessions were last used, for those last noted `interval` before that or earlier.

    Rows that are gone, ended or held by another transaction are left out.
    """
    await connection.execute(_TOUCH, list(use_times), list(use_times.values()), interval)


_REVOKE = """
UPDATE sessions SET revoke_time = $2, revoke_reason = $3
WHERE session_id = $1 AND revoke_time IS NULL
RETURNING user_id
"""


async def revoke(
    connection: Connection, session_id: SessionId, now: datetime, reason: RevokeReason
) -> UserId | None:
    """End a session and return whose it was; None: it had ended before or there is none."""
    user_id: UserId | None = await connection.fetchval(_REVOKE, session_id, now, reason)
    return user_id


_REVOKE_OF_USER = """
UPDATE sessions SET revoke_time = $2, revoke_reason = $3
WHERE user_id = $1 AND revoke_time IS NULL AND session_id IS DISTINCT FROM $4
RETURNING session_id, idle_expire_time > $2 AS was_active
"""


async def revoke_of_user(
    connection: Connection,
    user_id: UserId,
    now: datetime,
    reason: RevokeReason,
    spared: SessionId | None,
) -> Mapping[SessionId, bool]:
    """End all sessions of a user but `spared`; return whether each was active, by id.

    Expired ones are ended too: their access tokens may have time left. The caller holds the user's
    row.
    """
    rows = await connection.fetch(_REVOKE_OF_USER, user_id, now, reason, spared)
    return {row["session_id"]: row["was_active"] for row in rows}


def stored_session(row: asyncpg.Record) -> StoredSession:
    """Return what a row of `COLUMNS` says."""
    reason = row["revoke_reason"]
    session = Session(
        session_id=row["session_id"],
        user_id=row["user_id"],
        create_time=row["create_time"],
        last_use_time=row["last_use_time"],
        authentication_time=row["authentication_time"],
        idle_expire_time=row["idle_expire_time"],
        absolute_expire_time=row["absolute_expire_time"],
        client=ClientContext(row["ip"], row["user_agent"], row["device_id"]),
        authentication_methods=tuple(row["authentication_methods"]),
        csrf_hash=row["csrf_hash"],
        refresh_counter=row["refresh_counter"],
        revoke_time=row["revoke_time"],
        revoke_reason=None if reason is None else RevokeReason(reason),
        user_status=UserStatus(row["status"]),
        user_roles=tuple(row["roles"]),
    )
    return StoredSession(session, row["token_hash"], row["refresh_time"])
