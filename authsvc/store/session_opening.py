"""Owns the opening of a session: the new row, the end of the oldest, and the event of it."""

from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason, Session
from authsvc.store.audit import AuditRow
from authsvc.store.postgres.database import Connection

# One statement instead of four, because a login is to cost little beside its password's hash.
_OPEN = """
WITH surplus AS (
    SELECT session_id FROM sessions
    WHERE user_id = $2 AND revoke_time IS NULL AND idle_expire_time > $3
    ORDER BY session_id DESC OFFSET $13
), replaced AS (
    UPDATE sessions SET revoke_time = $3, revoke_reason = $14
    WHERE session_id IN (SELECT session_id FROM surplus) AND revoke_time IS NULL
    RETURNING session_id
), announced AS (
    INSERT INTO revocations (session_id, revoke_time) SELECT session_id, $3 FROM replaced
), opened AS (
    INSERT INTO sessions (
        session_id, user_id, create_time, last_use_time, authentication_time, refresh_time,
        idle_expire_time, absolute_expire_time, ip, user_agent, device_id, authentication_methods,
        token_hash, csrf_hash, refresh_counter
    ) VALUES ($1, $2, $3, $3, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
), recorded AS (
    INSERT INTO audit_events (event_id, occur_time, type, caller, request_id,
                              user_id, session_id, ip, user_agent, detail)
    SELECT $15, $3, $16, $17, $18, $2, $1, $6, $7, $19::jsonb || jsonb_build_object(
        'replaced', (SELECT coalesce(jsonb_agg(session_id), '[]') FROM replaced))
)
SELECT session_id FROM replaced
"""


async def open_session(
    connection: Connection, session: Session, token_hash: bytes, keep: int, event: AuditRow
) -> list[SessionId]:
    """Insert a session and end all but the `keep` newest active others; return the ids of these.

    They are announced as revoked and added to the event's detail; its time, user, session and
    client are the session's. The caller holds the user's row (`sessions.lock_owner`), or two
    sessions opened at once don't count each other.
    """
    rows = await connection.fetch(
        _OPEN,
        session.session_id,
        session.user_id,
        session.create_time,
        session.idle_expire_time,
        session.absolute_expire_time,
        session.client.ip,
        session.client.user_agent,
        session.client.device_id,
        session.authentication_methods,
        token_hash,
        session.csrf_hash,
        session.refresh_counter,
        keep,
        RevokeReason.REPLACED,
        event.event_id,
        event.type,
        event.call.caller,
        event.call.request_id,
        event.detail,
    )
    return [row["session_id"] for row in rows]
