"""Owns the ending of one session: the row, the revocation and the audit event, all or nothing."""

from collections.abc import Mapping
from datetime import datetime

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason
from authsvc.store import revocations
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection

_EVENT_TYPES: Mapping[RevokeReason, AuditType] = {
    RevokeReason.LOGOUT: AuditType.LOGOUT,
    RevokeReason.REVOKED: AuditType.REVOKE,
    RevokeReason.REFRESH_TOKEN_REUSED: AuditType.REFRESH_REUSE,
}


async def end_session(
    connection: Connection,
    call: Call,
    now: datetime,
    session_id: SessionId,
    reason: RevokeReason,
    client: ClientContext | None = None,
) -> bool:
    """End a session within the caller's transaction; return False if there is none to end.

    One that expired is ended too, since its access tokens may have time left. Twice is harmless:
    only the first leaves a revocation and an event.
    """
    user_id = await store.revoke(connection, session_id, now, reason)
    if user_id is None:
        return False
    await revocations.append(connection, now, session_ids=[session_id])
    event = AuditEvent(_EVENT_TYPES[reason], call, user_id, session_id, client)
    await record_event(connection, now, event)
    return True
