"""Owns the removal of rows past their retention, a limited number at a time.

Rows that another replica is removing are skipped. The subqueries are arrays so that they run once:
in a join PostgreSQL may run them again and exceed the limit.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import asyncpg

from authsvc.models.retention import Due
from authsvc.store.postgres.connector import Connection

_DELETE_SESSIONS = """
DELETE FROM sessions WHERE session_id = ANY (ARRAY(
    SELECT session_id FROM sessions WHERE end_time < $1
    ORDER BY end_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_DELETE_API_KEYS = """
DELETE FROM api_keys WHERE key_id = ANY (ARRAY(
    SELECT key_id FROM api_keys WHERE end_time < $1
    ORDER BY end_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_DELETE_REVOCATIONS = """
DELETE FROM revocations WHERE revocation_id = ANY (ARRAY(
    SELECT revocation_id FROM revocations WHERE revoke_time < $1
    ORDER BY revoke_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_DELETE_DEVICES = """
DELETE FROM devices WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM devices WHERE last_use_time < $1
    ORDER BY last_use_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
# The condition on occur_time excludes the partitions of later months.
_DELETE_AUDIT_EVENTS = """
DELETE FROM audit_events WHERE occur_time < $1 AND event_id = ANY (ARRAY(
    SELECT event_id FROM audit_events WHERE occur_time < $1
    ORDER BY event_id LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_SELECT_AUDIT_MONTHS = """
SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'audit_events'::regclass AND relname ~ '^audit_events_[0-9]{4}_[0-9]{2}$'
AND relname < $1 AND pg_has_role(relowner, 'USAGE')
ORDER BY relname LIMIT $2
"""
# While this lock is waited for, every writer queues behind it.
_LIMIT_WAITING = "SET LOCAL lock_timeout = '500ms'; SAVEPOINT unlocked"
_LOCK_AUDIT_EVENTS = "LOCK TABLE ONLY audit_events IN ACCESS EXCLUSIVE MODE"
_GO_BACK = "ROLLBACK TO SAVEPOINT unlocked"


# By kind: the table, and the time from which on the retention period counts.
_ENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sessions": ("sessions", "end_time"),
        "api_keys": ("api_keys", "end_time"),
        "revocations": ("revocations", "revoke_time"),
        "devices": ("devices", "last_use_time"),
        "one_time_codes": ("one_time_codes", "expire_time"),
        "challenges": ("challenges", "expire_time"),
        "oauth_states": ("oauth_states", "expire_time"),
        "messages": ("outbox", "end_time"),
        "session_keys": ("session_keys", "expire_time"),
        "ip_blocks": ("ip_blocks", "expire_time"),
        "request_receipts": ("request_receipts", "create_time"),
        "policy_overrides": ("policy_overrides", "expire_time"),
        "detections": ("detections", "quiet_until"),
        "login_freezes": ("login_freezes", "expire_time"),
        "rate_limits": ("rate_limits", "to_timestamp(expire_minute * 60.0)"),
        "audit_events": ("audit_events", "occur_time"),
    }
)
_FIND_DUE = """
SELECT (SELECT count(*) FROM {table} WHERE {time} < $1) AS count,
    (SELECT min({time}) FROM {table} WHERE {time} < 'infinity') AS oldest_time,
    (SELECT min({time}) FROM {table} WHERE {time} >= $1 AND {time} < 'infinity') AS next_end_time
"""


async def find_due(connection: Connection, kind: str, before: datetime) -> Due:
    """Return how many rows of a kind ended before that time, and when others did or will."""
    table, time = _ENDS[kind]
    [row] = await connection.fetch(_FIND_DUE.format(table=table, time=time), before)
    return Due(row["count"], row["oldest_time"], row["next_end_time"])


async def delete_sessions(connection: Connection, ended_before: datetime, limit: int) -> int:
    """Delete sessions that expired or were revoked before that time; return how many."""
    return _count(await connection.execute(_DELETE_SESSIONS, ended_before, limit))


async def delete_api_keys(connection: Connection, ended_before: datetime, limit: int) -> int:
    """Delete API keys that expired or were revoked before that time; return how many."""
    return _count(await connection.execute(_DELETE_API_KEYS, ended_before, limit))


async def delete_revocations(connection: Connection, before: datetime, limit: int) -> int:
    """Delete revocations older than that time; return how many."""
    return _count(await connection.execute(_DELETE_REVOCATIONS, before, limit))


async def delete_devices(connection: Connection, unused_since: datetime, limit: int) -> int:
    """Delete devices last used before that time; return how many."""
    return _count(await connection.execute(_DELETE_DEVICES, unused_since, limit))


async def delete_audit_events(connection: Connection, before: datetime, limit: int) -> int:
    """Delete audit events older than that time; return how many."""
    return _count(await connection.execute(_DELETE_AUDIT_EVENTS, before, limit))


async def drop_audit_months(connection: Connection, before: datetime, limit: int) -> int:
    """Drop the partitions of whole months before that of `before`; return how many.

    Must run in a transaction. Drops none if the role does not own them, another replica is dropping
    them, or a long query is reading audit events.
    """
    bound = f"audit_events_{before:%Y_%m}"
    if not await connection.fetch(_SELECT_AUDIT_MONTHS, bound, limit):
        return 0
    await connection.execute(_LIMIT_WAITING)
    try:
        await connection.execute(_LOCK_AUDIT_EVENTS)
    except asyncpg.LockNotAvailableError:
        await connection.execute(_GO_BACK)
        return 0
    months = await connection.fetch(_SELECT_AUDIT_MONTHS, bound, limit)
    for (name,) in months:
        await connection.execute(f"DROP TABLE {name}")
    return len(months)


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
