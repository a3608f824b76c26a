"""Owns the rows of api_keys: made, listed, found by the hash of the key, revoked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.api_keys import ApiKey
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Connection

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


@dataclass(frozen=True, slots=True)
class Owner:
    """How to tell a user of a key."""

    email: str = field(repr=False)
    display_name: str = field(repr=False)


_LOCK_OWNER = """
SELECT email, display_name FROM users
WHERE user_id = $1 AND status = 'active' FOR NO KEY UPDATE
"""


async def lock_owner(connection: Connection, user_id: UserId) -> Owner | None:
    """Hold an active user's row until the transaction ends; None: there is no such user."""
    row = await connection.fetchrow(_LOCK_OWNER, user_id)
    return None if row is None else Owner(row["email"], row["display_name"])


_INSERT = """
INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, policy, create_time,
                      expire_time)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
WHERE (SELECT count(*) FROM api_keys WHERE user_id = $2 AND end_time > $8) < $10
RETURNING key_id
"""


async def insert(connection: Connection, key: ApiKey, key_hash: bytes, limit: int) -> bool:
    """Store a new key; return False if its user has `limit` live ones.

    The caller holds the user's row, so that no two are counted at a time.
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
    """Return up to `limit` keys of a user, ended ones too, newest first, older than `before`."""
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
    """End a user's key; return whether it was not revoked before, None if the user has no such."""
    revoked: bool | None = await connection.fetchval(_REVOKE, key_id, user_id, now)
    return revoked


_FIND = f"""
SELECT {_COLUMNS}, k.key_hash, u.status, u.roles
FROM api_keys k JOIN users u USING (user_id) WHERE k.key_hash = any($1)
"""  # noqa: S608 - made of constants


async def find(connection: Connection, key_hashes: Sequence[bytes]) -> Mapping[bytes, StoredApiKey]:
    """Return the keys with these hashes, ended ones too, by hash."""
    rows = await connection.fetch(_FIND, key_hashes)
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
    """Note when keys were last used, for those last noted `interval` before that or earlier.

    Rows that are gone, revoked or held by another transaction are left out.
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
