"""Owns the use of refresh tokens: the counter of the session's row says which one is current."""

from datetime import datetime

from authsvc.models.ids import SessionId
from authsvc.store.audit import AuditRow
from authsvc.store.postgres.database import Connection
from authsvc.store.sessions import COLUMNS, StoredSession, stored_session

# One statement, because a transaction around two takes four round trips, and this is among what
# the service does most.
_ADVANCE = f"""
WITH advanced AS (
    UPDATE sessions s
    SET refresh_counter = s.refresh_counter + 1, refresh_time = $3,
        last_use_time = greatest(s.last_use_time, $3),
        idle_expire_time = least($4, s.absolute_expire_time)
    FROM users u
    WHERE s.session_id = $1 AND s.refresh_counter = $2 AND s.revoke_time IS NULL
        AND s.idle_expire_time > $3 AND u.user_id = s.user_id AND u.status = 'active'
    RETURNING {COLUMNS}
), recorded AS (
    INSERT INTO audit_events (event_id, occur_time, type, caller, request_id,
                              user_id, session_id, ip, user_agent, detail)
    SELECT $5, $3, $6, $7, $8, user_id, session_id, $9, $10, $11 FROM advanced
)
SELECT * FROM advanced
"""  # noqa: S608 - made of constants


async def advance(
    connection: Connection,
    session_id: SessionId,
    counter: int,
    idle_expire_time: datetime,
    event: AuditRow,
) -> StoredSession | None:
    """Use up the refresh token with this counter, extend its active session, record the event.

    The time is the event's and the user of the event the session's. None, and nothing changed: the
    counter is not the current one, or the session is not active.
    """
    row = await connection.fetchrow(
        _ADVANCE,
        session_id,
        counter,
        event.occur_time,
        idle_expire_time,
        event.event_id,
        event.type,
        event.call.caller,
        event.call.request_id,
        event.client.ip,
        event.client.user_agent,
        event.detail,
    )
    return None if row is None else stored_session(row)
