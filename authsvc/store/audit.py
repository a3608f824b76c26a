"""Owns the rows of audit_events: their insertion, and the reading of all of them by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.connector import Connection

# The target of inserts. `refresh`, `session_opening` and `session_selection` insert the event in
# their own statement, to save round trips; all others call `insert`.
TARGET = """audit_events (
    event_id, occur_time, type, caller, request_id, user_id, session_id, ip, user_agent, detail)"""
# Every event of an impersonated session says so, whatever wrote it: the statements named above
# never write one of such a session.
_INSERT = f"""
INSERT INTO {TARGET}
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb || coalesce((
    SELECT jsonb_build_object('impersonator', impersonator) FROM sessions
    WHERE session_id = $7 AND impersonator IS NOT NULL), '{{}}'))
RETURNING detail ->> 'impersonator'
"""  # noqa: S608 - made of constants


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST_ID = UUID(int=(1 << 128) - 1)


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


async def insert(connection: Connection, row: AuditRow) -> str | None:
    """Insert an event; return the impersonator, which is added to the detail, of its session."""
    impersonator: str | None = await connection.fetchval(
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
    return impersonator


_COLUMNS = """
    event_id, occur_time, type, caller, request_id, user_id, session_id, host(ip) AS ip, user_agent,
    detail
"""
# Ids ascend with time, and only they have an index over all users.
_LIST_BEFORE = f"""
SELECT {_COLUMNS} FROM audit_events WHERE event_id < $1 ORDER BY event_id DESC LIMIT $2
"""  # noqa: S608 - made of constants


async def list_before(
    connection: Connection, before: UUID | None, limit: int
) -> Sequence[AuditRow]:
    """Return the newest `limit` events, or the newest before one, in ascending order."""
    rows = await connection.fetch(_LIST_BEFORE, before or _LAST_ID, limit)
    return [_row(record) for record in reversed(rows)]


# The condition on the time lets PostgreSQL skip partitions, the one on the ids use the index.
_LIST_SINCE = f"""
SELECT {_COLUMNS} FROM audit_events
WHERE occur_time >= $1 AND event_id > $2 ORDER BY event_id LIMIT $3
"""  # noqa: S608 - made of constants


async def list_since(
    connection: Connection, oldest: datetime, after: UUID | None, limit: int
) -> Sequence[AuditRow]:
    """Return up to `limit` events since `oldest`, or those of them that follow `after`."""
    first = UUID(int=((oldest - _EPOCH) // _MILLISECOND - 1) << 80)
    rows = await connection.fetch(_LIST_SINCE, oldest, after or first, limit)
    return [_row(record) for record in rows]


def _row(record: asyncpg.Record) -> AuditRow:
    return AuditRow(
        event_id=record["event_id"],
        occur_time=record["occur_time"],
        type=record["type"],
        call=Call(record["request_id"], record["caller"]),
        user_id=record["user_id"],
        session_id=record["session_id"],
        client=ClientContext(record["ip"], record["user_agent"]),
        detail=record["detail"],
    )
