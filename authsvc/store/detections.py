"""Owns what detections ask of the database: whose turn it is, what has happened, what was raised.

The statements that count read the newest events of a type within a window by their index, and never
more than `MAX_DETECTION_COUNT` of them. An event that commits late is counted by the next run, as
long as it is in the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from authsvc.models.incidents import MAX_DETECTION_COUNT, Detection
from authsvc.store.incidents import first_id
from authsvc.store.postgres.connector import Connection

# Of one detection, so many subjects are raised at most within its window.
MAX_SUBJECTS = 50

_CLAIM_RUN = (
    "UPDATE detection_runs SET run_time = $1 WHERE run_time <= $1::timestamptz - $2::interval"
)


async def claim_run(connection: Connection, now: datetime, interval: timedelta) -> bool:
    """Return whether the caller is the one to look now: nobody has for `interval`."""
    return await connection.execute(_CLAIM_RUN, now, interval) == "UPDATE 1"


_LAST_RUN = "SELECT run_time FROM detection_runs WHERE run_time > '-infinity'"


async def last_run(connection: Connection) -> datetime | None:
    """Return when a replica last looked, or None if none ever did."""
    time: datetime | None = await connection.fetchval(_LAST_RUN)
    return time


_CLAIM = """
INSERT INTO detections (detection, subject, raise_time, quiet_until)
SELECT $1, $2, $3, $3::timestamptz + $4::interval
WHERE (SELECT count(*) FROM detections WHERE detection = $1 AND quiet_until > $3) < $5
ON CONFLICT (detection, subject) DO UPDATE
SET raise_time = excluded.raise_time, quiet_until = excluded.quiet_until
WHERE detections.quiet_until <= excluded.raise_time
"""


async def claim(connection: Connection, detection: Detection, now: datetime) -> bool:
    """Return whether the caller is the one to raise this, as nobody did within its window."""
    status = await connection.execute(
        _CLAIM, detection.name, detection.subject, now, detection.window, MAX_SUBJECTS
    )
    return status == "INSERT 0 1"


_DELETE_ENDED = """
DELETE FROM detections WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM detections WHERE quiet_until < $1
    ORDER BY quiet_until LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_ended(connection: Connection, before: datetime, limit: int) -> int:
    """Delete what may be raised again since before that time; return how many."""
    tag = await connection.execute(_DELETE_ENDED, before, limit)
    return int(tag.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Window:
    """The events after `start`, seen by network in prefixes of these lengths."""

    start: datetime
    ipv4_prefix: int
    ipv6_prefix: int


@dataclass(frozen=True, slots=True)
class Count:
    """How much was found for a subject."""

    subject: str
    count: int


def _recent(columns: str, type_parameter: str, condition: str = "true") -> str:
    """Return a subquery for the newest events of a type; $1 and $2 are the window's start."""
    return f"""(
    SELECT {columns} FROM audit_events
    WHERE type = {type_parameter} AND event_id > $1 AND occur_time > $2 AND {condition}
    ORDER BY event_id DESC LIMIT {MAX_DETECTION_COUNT})"""  # noqa: S608 - made of constants


_NETWORK = """
    network(set_masklen(ip, CASE family(ip) WHEN 4 THEN $4::integer ELSE $5::integer END))::text
"""
_USERS_BY_NETWORK = f"""
SELECT {_NETWORK} AS subject, count(DISTINCT user_id) AS count
FROM ({{events}}) AS recent
GROUP BY 1 HAVING count(DISTINCT user_id) >= $3 ORDER BY 2 DESC, 1 LIMIT {MAX_SUBJECTS}
"""  # noqa: S608 - made of constants
_FOUND = "ip IS NOT NULL AND user_id IS NOT NULL"
_FAILURES = " UNION ALL ".join(
    _recent("ip, user_id", f"'user.{name}'", _FOUND)
    for name in ("login_failure", "login_throttled")
)
_NEW_DEVICES = _recent("ip, user_id", "'user.login'", f"{_FOUND} AND detail ? 'new_device'")
_COUNT_SPRAYED = _USERS_BY_NETWORK.format(events=_FAILURES)
_COUNT_NEW_DEVICES = _USERS_BY_NETWORK.format(events=_NEW_DEVICES)


async def count_sprayed(connection: Connection, window: Window, least: int) -> list[Count]:
    """Return the networks from which logins failed at `least` accounts or more."""
    return await _by_network(connection, _COUNT_SPRAYED, window, least)


async def count_new_devices(connection: Connection, window: Window, least: int) -> list[Count]:
    """Return the networks from which `least` users or more logged in on a device new to them."""
    return await _by_network(connection, _COUNT_NEW_DEVICES, window, least)


# Of a user's logins one is counted, or who tries stolen passwords could hide behind their own.
_COUNT_LOGINS = f"""
SELECT
    (SELECT count(*) FROM {_recent("1", "'user.login_failure'")} AS failed)
        + (SELECT count(*) FROM {_recent("1", "'user.login_throttled'")} AS throttled) AS failed,
    (SELECT count(DISTINCT user_id) FROM {_recent("user_id", "'user.login'")} AS succeeded)
        AS succeeded
"""  # noqa: S608 - made of constants


async def count_logins(connection: Connection, window: Window) -> tuple[int, int]:
    """Return how many logins failed, and of how many users some succeeded."""
    [row] = await connection.fetch(_COUNT_LOGINS, first_id(window.start), window.start)
    return row["failed"], row["succeeded"]


# An address without an account counts each time, as nothing else is known of it.
_COUNT_ACCOUNTS = """
SELECT count(DISTINCT coalesce(user_id, event_id)) FROM (
    {events}
) AS recent
"""
_RESETS = " UNION ALL ".join(
    _recent("user_id, event_id", f"'user.password_reset{suffix}'") for suffix in ("_request", "")
)
_COUNT_RESETS = _COUNT_ACCOUNTS.format(events=_RESETS)
_COUNT_REUSES = _COUNT_ACCOUNTS.format(
    events=_recent("user_id, event_id", "'session.refresh_reuse'")
)


async def count_resets(connection: Connection, window: Window) -> int:
    """Return how many accounts' passwords were reset, or were to be."""
    return int(await connection.fetchval(_COUNT_RESETS, first_id(window.start), window.start))


async def count_reuses(connection: Connection, window: Window) -> int:
    """Return of how many users a session was ended by the reuse of a refresh token."""
    return int(await connection.fetchval(_COUNT_REUSES, first_id(window.start), window.start))


_COUNT_CALLERS = f"""
SELECT caller AS subject, count(*) AS count
FROM unnest($4::text[]) AS wanted, LATERAL {_recent("caller", "wanted")} AS recent
GROUP BY 1 HAVING count(*) >= $3 ORDER BY 2 DESC, 1 LIMIT {MAX_SUBJECTS}
"""  # noqa: S608 - made of constants


async def count_callers(
    connection: Connection, window: Window, least: int, types: Sequence[str]
) -> list[Count]:
    """Return the callers that caused `least` or more events of these types."""
    rows = await connection.fetch(
        _COUNT_CALLERS, first_id(window.start), window.start, least, types
    )
    return [_count(row) for row in rows]


_REVOKED = _recent("1", "'key.revoke'")
_COUNT_KEYS = f"SELECT count(*) FROM {_REVOKED} AS revoked"  # noqa: S608 - made of constants


async def count_revoked_keys(connection: Connection, window: Window) -> int:
    """Return how many signing keys were revoked."""
    return int(await connection.fetchval(_COUNT_KEYS, first_id(window.start), window.start))


async def _by_network(
    connection: Connection, statement: str, window: Window, least: int
) -> list[Count]:
    rows = await connection.fetch(
        statement,
        first_id(window.start),
        window.start,
        least,
        window.ipv4_prefix,
        window.ipv6_prefix,
    )
    return [_count(row) for row in rows]


def _count(row: asyncpg.Record) -> Count:
    return Count(row["subject"], row["count"])
