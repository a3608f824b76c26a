"""Owns the rows of sessions: lookup, extension, ending.

Locks: callers that end or replace several sessions of a user lock the user's row
(`users.lock_user`), statements that extend or touch several sessions skip locked rows, and all
others touch one row. So statements cannot deadlock.
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
from authsvc.store.postgres.connector import Connection, known_timeline

# The columns that `stored_session` reads, of sessions s and users u.
COLUMNS = """
    s.session_id, s.user_id, s.create_time, s.last_use_time, s.authentication_time,
    s.idle_expire_time, s.absolute_expire_time, host(s.ip) AS ip, s.user_agent, s.device_id,
    s.authentication_methods, s.csrf_hash, s.refresh_counter, s.revoke_time, s.revoke_reason,
    u.status, u.roles, s.token_hash, s.refresh_time, s.refresh_burned,
    host(s.other_ip) AS other_ip, s.idle_lifetime, s.impersonator, u.token_revoke_time
"""
_LAST_ID = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session, and the columns of its row that only the service needs.

    `token_hash` is the SHA-256 of the session token; `refresh_time` is when the refresh counter was
    last advanced. `refresh_burned` counts the refresh tokens directly before the current one whose
    answers were lost; whoever presents one of them has stolen it.
    """

    session: Session
    token_hash: bytes = field(repr=False)
    refresh_time: datetime
    refresh_burned: int

    @property
    def parent_counter(self) -> int:
        """The number of the refresh token that the current one was issued for; -1 for the first."""
        return self.session.refresh_counter - self.refresh_burned - 1


_HAS_ENDED = """
SELECT EXISTS (SELECT FROM sessions WHERE session_id = $1 AND revoke_time IS NOT NULL)
"""


async def has_ended(connection: Connection, session_id: SessionId) -> bool:
    """Return whether a session has been ended, according to what is committed now."""
    return bool(await connection.fetchval(_HAS_ENDED, session_id))


# `require_primary` makes it fail on a server that was replaced, also if it finds nothing.
_FIND_BY_TOKEN = f"""
SELECT {COLUMNS} FROM sessions s JOIN users u USING (user_id)
WHERE s.token_hash = any($1) AND (SELECT require_primary($2))
"""  # noqa: S608 - made of constants


async def find_by_token(
    connection: Connection, token_hashes: Sequence[bytes]
) -> Mapping[bytes, StoredSession]:
    """Return the sessions with these token hashes, including ended ones, by token hash."""
    rows = await connection.fetch(_FIND_BY_TOKEN, token_hashes, known_timeline(connection))
    return {row["token_hash"]: stored_session(row) for row in rows}


_FIND = f"""
SELECT {COLUMNS} FROM sessions s JOIN users u USING (user_id)
WHERE s.session_id = any($1) AND (SELECT require_primary($2))
"""  # noqa: S608 - made of constants


async def find(
    connection: Connection, session_ids: Sequence[SessionId]
) -> Mapping[SessionId, StoredSession]:
    """Return the sessions with these ids, including ended ones, by id."""
    rows = await connection.fetch(_FIND, session_ids, known_timeline(connection))
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
    idle_expire_time = greatest(s.idle_expire_time,
        least($2 + s.idle_lifetime, $3, s.absolute_expire_time))
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
    """Extend the active ones of these sessions, never past their absolute expiry; return them.

    They are extended to `idle_expire_time`, or by a shorter idle lifetime of their own.

    A row locked by another transaction is skipped: it is being ended, refreshed or extended.
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
    """Record when sessions were last used, unless the recorded time is less than `interval` older.

    Rows that are deleted, ended or locked by another transaction are skipped.
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
    """End a session and return its user's id, or None if it has ended before or does not exist."""
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
    except_id: SessionId | None,
) -> Mapping[SessionId, bool]:
    """End all sessions of a user except `except_id`; return whether each was active, by id.

    Expired ones are ended too, as their access tokens may still be valid. The caller has locked the
    user's row.
    """
    rows = await connection.fetch(_REVOKE_OF_USER, user_id, now, reason, except_id)
    return {row["session_id"]: row["was_active"] for row in rows}


def stored_session(row: asyncpg.Record) -> StoredSession:
    """Return the session in a row of `COLUMNS`."""
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
        other_ip=row["other_ip"],
        idle_lifetime=row["idle_lifetime"],
        impersonator=row["impersonator"],
        token_revoke_time=row["token_revoke_time"],
    )
    return StoredSession(session, row["token_hash"], row["refresh_time"], row["refresh_burned"])
