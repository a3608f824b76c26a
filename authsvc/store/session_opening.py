"""Owns the opening of sessions: the new row, the end of surplus sessions, and the audit event."""

from authsvc.models.audit import AuditRow
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason, Session
from authsvc.store import audit, revocations
from authsvc.store.postgres.database import Connection

# One statement instead of four, so that a login costs little beside hashing its password: a
# separate statement for the event takes one more round trip and 0.1 ms of the service's CPU.
_OPEN = f"""
WITH surplus AS (
    SELECT session_id FROM sessions
    WHERE user_id = $2 AND revoke_time IS NULL AND idle_expire_time > $3
        AND impersonator IS NULL
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
        token_hash, csrf_hash, refresh_counter, idle_lifetime, other_ip
    ) VALUES ($1, $2, $3, $3, $3, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
        make_interval(secs => $20), (
        SELECT ip FROM sessions
        WHERE device_id = $8 AND $8 <> '' AND family(ip) <> family($6) AND user_id = $2
            AND revoke_time IS NULL AND idle_expire_time > $3 AND impersonator IS NULL
        ORDER BY session_id DESC LIMIT 1))
), recorded AS (
    INSERT INTO {audit.TARGET}
    SELECT $15, $3, $16, $17, $18, $2, $1, $6, $7, $19::jsonb || jsonb_build_object(
        'replaced', (SELECT coalesce(jsonb_agg(session_id), '[]') FROM replaced))
)
SELECT session_id, {revocations.CURSOR} FROM replaced
"""  # noqa: S608 - made of constants


async def open_session(
    connection: Connection, session: Session, token_hash: bytes, keep: int, event: AuditRow
) -> list[SessionId]:
    """Insert a session and end all but the `keep` newest active others; return their ids.

    Its `other_ip` is the address of the newest active session of the same device that was opened
    over the other family of addresses. Impersonated sessions are not the user's: they neither count
    nor end.

    The ended sessions are announced as revoked and listed in the event's detail; the event's time,
    user, session and client are those of the new session. The caller has locked the user's row
    (`users.lock_user`); otherwise two sessions opened at once would not count each other.
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
        None if session.idle_lifetime is None else session.idle_lifetime.total_seconds(),
    )
    if rows:
        revocations.note(connection, rows[0])
    return [row["session_id"] for row in rows]


_OPEN_IMPERSONATED = """
INSERT INTO sessions (
    session_id, user_id, create_time, last_use_time, authentication_time, refresh_time,
    idle_expire_time, absolute_expire_time, ip, user_agent, device_id, authentication_methods,
    token_hash, csrf_hash, refresh_counter, impersonator
) VALUES ($1, $2, $3, $3, $4, $3, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""


async def open_impersonated(connection: Connection, session: Session, token_hash: bytes) -> None:
    """Insert an impersonated session; the user's own sessions stay as they are."""
    await connection.execute(
        _OPEN_IMPERSONATED,
        session.session_id,
        session.user_id,
        session.create_time,
        session.authentication_time,
        session.idle_expire_time,
        session.absolute_expire_time,
        session.client.ip,
        session.client.user_agent,
        session.client.device_id,
        session.authentication_methods,
        token_hash,
        session.csrf_hash,
        session.refresh_counter,
        session.impersonator,
    )
