"""Owns the rows of policies that are defined at run time, and of overrides for keys."""

from datetime import datetime, timedelta
from typing import Any

from authsvc.models.definitions import DefinedIn
from authsvc.models.limits import Algorithm, Effect, Override, Policy
from authsvc.store.postgres.connector import Connection

_MICROSECOND = timedelta(microseconds=1)
# Overrides that are read into objects without a pause.
_PAGE = 500
# Where there is no window: nothing is counted, or the policy's own holds.
_NO_WINDOW = _MICROSECOND

_PUT = """
INSERT INTO policies (name, algorithm, requests, window_us, burst, durable, unlimited, shadow,
    update_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (name) DO UPDATE SET algorithm = excluded.algorithm, requests = excluded.requests,
    window_us = excluded.window_us, burst = excluded.burst, durable = excluded.durable,
    unlimited = excluded.unlimited, shadow = excluded.shadow, update_time = excluded.update_time
"""


async def put(connection: Connection, policy: Policy, now: datetime) -> None:
    """Insert a policy, or replace the one of the same name."""
    await connection.execute(
        _PUT,
        policy.name,
        policy.algorithm,
        policy.requests,
        policy.window // _MICROSECOND,
        policy.burst,
        policy.durable,
        policy.unlimited,
        policy.shadow,
        now,
    )


_DELETE = "DELETE FROM policies WHERE name = $1"


async def delete(connection: Connection, name: str) -> bool:
    """Delete a policy; return whether there was one of this name."""
    return await connection.execute(_DELETE, name) == "DELETE 1"


_READ = """
SELECT name, algorithm, requests, window_us, burst, durable, unlimited, shadow
FROM policies ORDER BY name
"""


async def read(connection: Connection) -> list[Policy]:
    """Return all policies that are defined at run time, by name."""
    return [
        Policy(
            name=row["name"],
            requests=row["requests"],
            window=row["window_us"] * _MICROSECOND,
            burst=row["burst"],
            algorithm=Algorithm(row["algorithm"]),
            durable=row["durable"],
            unlimited=row["unlimited"],
            shadow=row["shadow"],
            defined_in=DefinedIn.RUN_TIME,
        )
        for row in await connection.fetch(_READ)
    ]


_PUT_OVERRIDE = """
INSERT INTO policy_overrides (policy, key, effect, requests, window_us, burst, expire_time, note,
    update_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (policy, key) DO UPDATE SET effect = excluded.effect, requests = excluded.requests,
    window_us = excluded.window_us, burst = excluded.burst, expire_time = excluded.expire_time,
    note = excluded.note, update_time = excluded.update_time
"""


async def put_override(connection: Connection, override: Override, now: datetime) -> None:
    """Insert an override, or replace the one of the same policy and key."""
    await connection.execute(
        _PUT_OVERRIDE,
        override.policy,
        override.key,
        override.effect,
        override.requests,
        (override.window or _NO_WINDOW) // _MICROSECOND,
        override.burst,
        override.expire_time,
        override.note,
        now,
    )


_DELETE_OVERRIDE = "DELETE FROM policy_overrides WHERE policy = $1 AND key = $2"


async def delete_override(connection: Connection, policy: str, key: str) -> bool:
    """Delete an override; return whether there was one."""
    return await connection.execute(_DELETE_OVERRIDE, policy, key) == "DELETE 1"


_DELETE_OVERRIDES = "DELETE FROM policy_overrides WHERE policy = $1"


async def delete_overrides(connection: Connection, policy: str) -> None:
    """Delete all overrides of a policy."""
    await connection.execute(_DELETE_OVERRIDES, policy)


_COUNT = """
SELECT (SELECT count(*) FROM policies) AS policies,
    (SELECT count(*) FROM policy_overrides
        WHERE expire_time IS NULL OR expire_time > $1) AS overrides
"""


async def count(connection: Connection, now: datetime) -> tuple[int, int]:
    """Return how many policies there are, and how many overrides that have not expired."""
    (row,) = await connection.fetch(_COUNT, now)
    return row["policies"], row["overrides"]


# `$4` is the policy to list, or NULL for all.
_LIST_OVERRIDES = """
SELECT policy, key, effect, requests, window_us, burst, expire_time, note
FROM policy_overrides
WHERE (policy, key) > ($1, $2) AND (expire_time IS NULL OR expire_time > $3)
    AND ($4::text IS NULL OR policy = $4)
ORDER BY policy, key LIMIT $5
"""


async def list_overrides(
    connection: Connection,
    after: tuple[str, str],
    now: datetime,
    limit: int,
    policy: str | None = None,
) -> list[Override]:
    """Return up to `limit` overrides in force that follow the policy and key `after`, in order."""
    rows = await connection.fetch(_LIST_OVERRIDES, *after, now, policy, limit)
    return [_override(row) for row in rows]


async def read_overrides(connection: Connection, now: datetime) -> list[Override]:
    """Return all overrides in force, by policy and key."""
    overrides: list[Override] = []
    after = ("", "")
    while True:
        page = await list_overrides(connection, after, now, _PAGE)
        overrides += page
        if len(page) < _PAGE:
            return overrides
        after = (page[-1].policy, page[-1].key)


_DELETE_EXPIRED = """
DELETE FROM policy_overrides WHERE (policy, key) IN (
    SELECT policy, key FROM policy_overrides WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def delete_expired(connection: Connection, before: datetime, limit: int) -> int:
    """Delete overrides that expired before that time; return how many."""
    tag = await connection.execute(_DELETE_EXPIRED, before, limit)
    return int(tag.rpartition(" ")[2])


def _override(row: Any) -> Override:
    window = row["window_us"] * _MICROSECOND
    return Override(
        policy=row["policy"],
        key=row["key"],
        effect=Effect(row["effect"]),
        requests=row["requests"],
        window=None if window == _NO_WINDOW else window,
        burst=row["burst"],
        expire_time=row["expire_time"],
        note=row["note"],
    )
