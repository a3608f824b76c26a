"""Owns the rows of api_keys: creation, listing, lookup by hash, revocation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.api_keys import ApiKey
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.users import UserStatus
from authsvc.store.postgres.connector import Connection, known_timeline

_COLUMNS = """
    k.key_id, k.user_id, k.name, k.prefix, k.scopes, k.policy, k.create_time, k.expire_time,
    k.last_use_time, k.revoke_time
"""
_LAST_ID = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class StoredApiKey:
    """An API key, the SHA-256 of its text, and its user's state when the row was read."""

    key: ApiKey
    key_hash: bytes = field(repr=False)
    user_status: UserStatus
    user_roles: tuple[str, ...]


_INSERT = """
INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, policy, create_time,
                      expire_time)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
WHERE (SELECT count(*) FROM api_keys WHERE user_id = $2 AND end_time > $8) < $10
RETURNING key_id
"""


async def insert(connection: Connection, key: ApiKey, key_hash: bytes, limit: int) -> bool:
    """Store a new key; return False if its user already has `limit` live ones.

    The caller has locked the user's row, so that parallel calls can't exceed the limit.
    """
    inserted = await connection.fetchval(
        _INSERT,
        key.key_id,
        key.user_id,
        key.name,
        key.prefix,
        key_hash,
        key.scopes,
        key.policy,
        key.create_time,
        key.expire_time,
        limit,
    )
    return inserted is not None


_LIST = f"""
SELECT {_COLUMNS} FROM api_keys k WHERE k.user_id = $1 AND k.key_id < $2
ORDER BY k.key_id DESC LIMIT $3
"""  # noqa: S608 - made of constants


async def list_of_user(
    connection: Connection, user_id: UserId, before: ApiKeyId | None, limit: int
) -> list[ApiKey]:
    """Return up to `limit` keys of a user, also ended ones, newest first, older than `before`."""
    rows = await connection.fetch(_LIST, user_id, before or _LAST_ID, limit)
    return [_api_key(row) for row in rows]


_REVOKE = """
WITH revoked AS (
    UPDATE api_keys SET revoke_time = $3
    WHERE key_id = $1 AND user_id = $2 AND revoke_time IS NULL
    RETURNING key_id
)
SELECT EXISTS (SELECT FROM revoked) FROM api_keys WHERE key_id = $1 AND user_id = $2
"""


async def revoke(
    connection: Connection, user_id: UserId, key_id: ApiKeyId, now: datetime
) -> bool | None:
    """Revoke a user's key; return False if it already was, None if the user has no such key."""
    revoked: bool | None = await connection.fetchval(_REVOKE, key_id, user_id, now)
    return revoked


# `require_primary` makes it fail on a server that was replaced, also if it finds nothing.
_FIND = f"""
SELECT {_COLUMNS}, k.key_hash, u.status, u.roles
FROM api_keys k JOIN users u USING (user_id)
WHERE k.key_hash = any($1) AND (SELECT require_primary($2))
"""  # noqa: S608 - made of constants


async def find(connection: Connection, key_hashes: Sequence[bytes]) -> Mapping[bytes, StoredApiKey]:
    """Return the keys with these hashes, including ended ones, by hash."""
    rows = await connection.fetch(_FIND, key_hashes, known_timeline(connection))
    return {
        row["key_hash"]: StoredApiKey(
            _api_key(row), row["key_hash"], UserStatus(row["status"]), tuple(row["roles"])
        )
        for row in rows
    }


_TOUCH = """
WITH used AS (
    SELECT k.key_id, noted.use_time
    FROM api_keys k JOIN unnest($1::uuid[], $2::timestamptz[]) AS noted (key_id, use_time)
        USING (key_id)
    WHERE (k.last_use_time IS NULL OR k.last_use_time <= noted.use_time - $3::interval)
        AND k.revoke_time IS NULL
    FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE api_keys k SET last_use_time = used.use_time FROM used WHERE k.key_id = used.key_id
"""


async def touch(
    connection: Connection, use_times: Mapping[ApiKeyId, datetime], interval: timedelta
) -> None:
    """Record when keys were last used, unless the recorded time is less than `interval` older.

    Rows that are deleted, revoked or locked by another transaction are skipped.
    """
    await connection.execute(_TOUCH, list(use_times), list(use_times.values()), interval)


def _api_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        user_id=row["user_id"],
        name=row["name"],
        prefix=row["prefix"],
        scopes=tuple(row["scopes"]),
        policy=row["policy"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        last_use_time=row["last_use_time"],
        revoke_time=row["revoke_time"],
    )
