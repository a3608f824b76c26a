"""Owns the rows of login_freezes: setting, lifting and reading them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.incidents import LoginFreeze, LoginMethod
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.connector import Connection, known_timeline

_COLUMNS = """
    freeze_id, methods, network::text AS network, create_time, expire_time, created_by, reason
"""
# By the database's clock, as all replicas have to agree on the end.
_UPSERT = f"""
INSERT INTO login_freezes (
    freeze_id, methods, network, create_time, expire_time, created_by, reason)
VALUES ($1, $2, $3::text::cidr, clock_timestamp(), clock_timestamp() + $4, $5, $6)
ON CONFLICT (methods, network) DO UPDATE
SET expire_time = excluded.expire_time, created_by = excluded.created_by, reason = excluded.reason,
    create_time = CASE WHEN login_freezes.expire_time > clock_timestamp()
        THEN login_freezes.create_time ELSE excluded.create_time END
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def upsert(
    connection: Connection,
    freeze_id: UUID,
    methods: Sequence[LoginMethod],
    network: str | None,
    duration: timedelta,
    created_by: str,
    reason: str,
) -> LoginFreeze:
    """Freeze logins for `duration` from now, or change the end of the same freeze; return it."""
    [row] = await connection.fetch(
        _UPSERT, freeze_id, sorted(methods), network, duration, created_by, reason
    )
    ring_after_commit(connection, Channel.LOGIN_FREEZES)
    return _freeze(row)


_DELETE = f"DELETE FROM login_freezes WHERE freeze_id = ANY ($1) RETURNING {_COLUMNS}"  # noqa: S608 - made of constants


async def delete(connection: Connection, freeze_ids: Sequence[UUID]) -> list[LoginFreeze]:
    """Lift freezes; return those that this call lifted."""
    rows = await connection.fetch(_DELETE, freeze_ids)
    ring_after_commit(connection, Channel.LOGIN_FREEZES)
    return [_freeze(row) for row in rows]


_DELETE_ENDED = """
DELETE FROM login_freezes WHERE freeze_id = ANY (ARRAY(
    SELECT freeze_id FROM login_freezes WHERE expire_time < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_ended(connection: Connection, before: datetime, limit: int) -> int:
    """Delete freezes that ended before that time; return how many."""
    tag = await connection.execute(_DELETE_ENDED, before, limit)
    return int(tag.rpartition(" ")[2])


# `require_primary` makes it fail on a server that was replaced, also if it finds nothing.
_LIST = f"""
SELECT {_COLUMNS} FROM login_freezes
WHERE expire_time > clock_timestamp() AND (SELECT require_primary($1))
ORDER BY freeze_id
"""  # noqa: S608 - made of constants


async def list_all(connection: Connection) -> list[LoginFreeze]:
    """Return the freezes that are in force."""
    return [_freeze(row) for row in await connection.fetch(_LIST, known_timeline(connection))]


def _freeze(row: asyncpg.Record) -> LoginFreeze:
    return LoginFreeze(
        freeze_id=row["freeze_id"],
        methods=tuple(LoginMethod(name) for name in row["methods"]),
        network=row["network"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        created_by=row["created_by"],
        reason=row["reason"],
    )
