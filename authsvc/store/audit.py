"""Owns the rows of audit_events: their insertion, and the reading of all of them by page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.audit import AuditFilter, AuditRow
from authsvc.models.calls import Call, ClientContext
from authsvc.store.log_reading import Log
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
    rows = await connection.fetch(_LIST_SINCE, oldest, after or _id_at(oldest, -1), limit)
    return [_row(record) for record in rows]


@dataclass(frozen=True, slots=True)
class Scan:
    """A part of the log, newest events first, and which of them match.

    `reached` is the oldest event that was looked at, or None if there are no more.
    """

    rows: Sequence[AuditRow]
    reached: UUID | None


# Looks at no more events than $5, whether they match or not. Ids ascend with time; the conditions
# on the time let PostgreSQL skip partitions.
_SCAN = f"""
WITH scanned AS MATERIALIZED (
    SELECT event_id, occur_time, type, caller, request_id, user_id, session_id, ip, user_agent,
        detail
    FROM audit_events
    WHERE event_id < $1 AND event_id > $2 AND occur_time >= $3 AND occur_time < $4
        AND ($7::uuid IS NULL OR user_id = $7)
    ORDER BY event_id DESC LIMIT $5),
reached AS (
    SELECT (SELECT event_id FROM scanned ORDER BY event_id LIMIT 1) AS reached_id,
        (SELECT count(*) FROM scanned) AS scanned_count)
SELECT reached.*, matched.* FROM reached LEFT JOIN (
    SELECT {_COLUMNS} FROM scanned
    WHERE (cardinality($6::text[]) = 0 OR type = ANY ($6))
        AND ($8::uuid IS NULL OR session_id = $8)
        AND ($9::text IS NULL OR caller = $9)
        AND ($10::inet IS NULL OR ip <<= $10)
        AND ($11::text IS NULL OR request_id = $11)
    ORDER BY event_id DESC LIMIT $12) AS matched ON true
ORDER BY event_id DESC
"""  # noqa: S608 - made of constants


async def scan(
    connection: Connection,
    wanted: AuditFilter,
    span: tuple[datetime, datetime],
    before: UUID | None,
    *,
    looks: int,
    limit: int,
) -> Scan:
    """Return up to `limit` matching events of a time span, among the newest `looks` before one."""
    start, end = span
    records = await connection.fetch(
        _SCAN,
        min(before or _LAST_ID, _id_at(end, 1)),
        _id_at(start, -1),
        start,
        end,
        looks,
        wanted.types,
        wanted.user_id,
        wanted.session_id,
        wanted.caller,
        wanted.network,
        wanted.request_id,
        limit,
    )
    rows = [_row(record) for record in records if record["event_id"] is not None]
    is_last = records[0]["scanned_count"] < looks and len(rows) < limit
    return Scan(rows, None if is_last else records[0]["reached_id"])


def _id_at(time: datetime, milliseconds: int) -> UUID:
    """Return an id as if it was made so many milliseconds after that time."""
    return UUID(int=max(0, (time - _EPOCH) // _MILLISECOND + milliseconds) << 80)


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


def _followed(record: asyncpg.Record) -> AuditRow:
    return replace(_row(record), transaction_id=record["log_transaction"])


LOG = Log(
    table="audit_events",
    key="event_id",
    first_key=UUID(int=0),
    columns=_COLUMNS,
    parse=_followed,
    time="occur_time",
)
