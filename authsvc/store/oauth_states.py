"""Owns the rows of oauth_states: started logins at other providers, each for a single use."""

from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import SessionId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class StateRow:
    """A started login; `state_hash` is the SHA-256 of its state.

    `link_session_id` is the session whose user links the identity, or None for a login.
    """

    state_hash: bytes = field(repr=False)
    provider: str
    redirect_uri: str
    sealed_verifier: bytes = field(repr=False)
    link_session_id: SessionId | None


# The lock keeps the session from being deleted before the row that refers to it is committed.
_INSERT = """
WITH session AS (
    SELECT session_id FROM sessions WHERE session_id = $5 AND revoke_time IS NULL FOR KEY SHARE
)
INSERT INTO oauth_states (state_hash, provider, redirect_uri, sealed_verifier, link_session_id,
                          create_time, expire_time)
SELECT $1, $2, $3, $4, (SELECT session_id FROM session), $6, $7
WHERE $5::uuid IS NULL OR EXISTS (SELECT FROM session)
RETURNING true
"""


async def insert(
    connection: Connection, row: StateRow, now: datetime, expire_time: datetime
) -> bool:
    """Store a started login; return False if the session to link from has ended."""
    return bool(
        await connection.fetchval(
            _INSERT,
            row.state_hash,
            row.provider,
            row.redirect_uri,
            row.sealed_verifier,
            row.link_session_id,
            now,
            expire_time,
        )
    )


_CLAIM = """
DELETE FROM oauth_states WHERE state_hash = $1 AND expire_time > $2
RETURNING provider, redirect_uri, sealed_verifier, link_session_id
"""


async def claim(connection: Connection, state_hash: bytes, now: datetime) -> StateRow | None:
    """Use up a started login; return None if it is unknown, was used or has expired."""
    row = await connection.fetchrow(_CLAIM, state_hash, now)
    if row is None:
        return None
    session_id = row["link_session_id"]
    return StateRow(
        state_hash,
        row["provider"],
        row["redirect_uri"],
        row["sealed_verifier"],
        None if session_id is None else SessionId(session_id),
    )


_DELETE_EXPIRED = """
DELETE FROM oauth_states WHERE state_hash = ANY (ARRAY(
    SELECT state_hash FROM oauth_states WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_expired(connection: Connection, before: datetime, limit: int) -> int:
    """Delete up to `limit` uncompleted logins that expired before that time."""
    tag = await connection.execute(_DELETE_EXPIRED, before, limit)
    return int(tag.rpartition(" ")[2])
