"""Owns the rows of session_keys: storing under the session's limit, and listing a user's."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

import asyncpg

from authsvc.models.ids import SessionId, SessionKeyId, UserId
from authsvc.models.session_keys import PublicKey, PublicKeyKind, SessionKey
from authsvc.store.postgres.connector import Connection, known_timeline

_LAST_ID = UUID(int=(1 << 128) - 1)

_LOCK_ACTIVE = """
SELECT s.absolute_expire_time FROM sessions s JOIN users u USING (user_id)
WHERE s.session_id = $1 AND s.revoke_time IS NULL AND s.idle_expire_time > $2
    AND u.status = 'active'
FOR NO KEY UPDATE OF s
"""


async def lock_active_session(
    connection: Connection, session_id: SessionId, now: datetime
) -> datetime | None:
    """Lock a session until the transaction ends; return its absolute expiry, None if it has ended.

    While it is locked, no other transaction ends it or stores a key for it.
    """
    expire_time: datetime | None = await connection.fetchval(_LOCK_ACTIVE, session_id, now)
    return expire_time


_PUT = """
INSERT INTO session_keys AS k (session_key_id, session_id, purpose, kind, public_key, create_time,
                               expire_time)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE (SELECT count(*) FROM session_keys
       WHERE session_id = $2 AND expire_time > $6
           AND (purpose, public_key) IS DISTINCT FROM ($3::text, $5::text)) < $8
ON CONFLICT (session_id, purpose, public_key)
    DO UPDATE SET expire_time = greatest(k.expire_time, excluded.expire_time)
RETURNING session_key_id, create_time, expire_time
"""


async def put(connection: Connection, key: SessionKey, limit: int) -> SessionKey | None:
    """Store a key, or extend the one that is the same; return it as it is stored.

    Returns None if the session has `limit` other live keys. The caller has locked the session, so
    parallel calls can't exceed the limit.
    """
    row = await connection.fetchrow(
        _PUT,
        key.key_id,
        key.session_id,
        key.purpose,
        key.public_key.kind,
        key.public_key.text,
        key.create_time,
        key.expire_time,
        limit,
    )
    if row is None:
        return None
    return replace(
        key,
        key_id=row["session_key_id"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
    )


# `require_primary` makes it fail on a server that was replaced, also if it finds nothing.
_LIST = """
SELECT k.session_key_id, k.session_id, s.user_id, k.purpose, k.kind, k.public_key, k.create_time,
    k.expire_time
FROM session_keys k JOIN sessions s USING (session_id) JOIN users u USING (user_id)
WHERE s.user_id = $1 AND s.revoke_time IS NULL AND s.idle_expire_time > $2
    AND u.status = 'active' AND k.expire_time > $2 AND k.session_key_id < $3
    AND (SELECT require_primary($5))
ORDER BY k.session_key_id DESC LIMIT $4
"""


async def list_live(
    connection: Connection,
    user_id: UserId,
    now: datetime,
    before: SessionKeyId | None,
    limit: int,
) -> list[SessionKey]:
    """Return up to `limit` live keys of a user's active sessions, newest first, before `before`."""
    rows = await connection.fetch(
        _LIST, user_id, now, before or _LAST_ID, limit, known_timeline(connection)
    )
    return [_session_key(row) for row in rows]


_DELETE_EXPIRED = """
DELETE FROM session_keys WHERE session_key_id = ANY (ARRAY(
    SELECT session_key_id FROM session_keys WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_expired(connection: Connection, expired_before: datetime, limit: int) -> int:
    """Delete keys that expired before that time; return how many."""
    status = await connection.execute(_DELETE_EXPIRED, expired_before, limit)
    return int(status.rpartition(" ")[2])


def _session_key(row: asyncpg.Record) -> SessionKey:
    return SessionKey(
        key_id=row["session_key_id"],
        session_id=row["session_id"],
        user_id=row["user_id"],
        purpose=row["purpose"],
        public_key=PublicKey(PublicKeyKind(row["kind"]), row["public_key"]),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
    )
