"""Owns the insertion of audit events."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.connector import Connection

# The target of inserts. `refresh.advance` and `session_opening.open_session` insert the event in
# their own statement, to save a round trip; all others call `insert`.
TARGET = """audit_events (
    event_id, occur_time, type, caller, request_id, user_id, session_id, ip, user_agent, detail)"""
_INSERT = f"""
INSERT INTO {TARGET}
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An event as stored; `detail` is a JSON object."""

    event_id: UUID
    occur_time: datetime
    type: str
    call: Call
    user_id: UserId | None
    session_id: SessionId | None
    client: ClientContext
    detail: str


async def insert(connection: Connection, row: AuditRow) -> None:
    """Insert an event."""
    await connection.execute(
        _INSERT,
        row.event_id,
        row.occur_time,
        row.type,
        row.call.caller,
        row.call.request_id,
        row.user_id,
        row.session_id,
        row.client.ip,
        row.client.user_agent,
        row.detail,
    )
