"""Owns the rows of signing keys and their transitions; each is one statement that claims it.

If replicas try the same transition at once, one succeeds and the others learn that they did not:
row locks and the two partial unique indexes (one key is active, one is prepared) ensure that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store.postgres.connector import Connection, known_timeline


@dataclass(frozen=True, slots=True)
class SigningKeyRow:
    """A signing key as it is stored, with its secret sealed."""

    info: SigningKeyInfo
    sealed_key: bytes = field(repr=False)


# `require_primary` makes the statement fail on a server that was replaced.
_LIST = """
SELECT key_id, algorithm, state, sealed_key, create_time, activate_time, retire_time, revoke_time,
       expire_time, rotate_request_time
FROM signing_keys WHERE (SELECT require_primary($1))
ORDER BY create_time DESC, key_id
"""


async def list_all(conn: Connection) -> list[SigningKeyRow]:
    """Return all keys, newest first."""
    return [_row(record) for record in await conn.fetch(_LIST, known_timeline(conn))]


_INSERT = """
INSERT INTO signing_keys (key_id, algorithm, state, sealed_key, create_time, activate_time)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING key_id
"""


async def insert(conn: Connection, row: SigningKeyRow) -> bool:
    """Store a prepared or active key; return False if another key has its state."""
    inserted = await conn.fetchval(
        _INSERT,
        row.info.key_id,
        row.info.algorithm,
        row.info.state,
        row.sealed_key,
        row.info.create_time,
        row.info.activate_time,
    )
    return inserted is not None


_RETIRE = """
UPDATE signing_keys SET state = 'retired', retire_time = $2, expire_time = $3
WHERE key_id = $1 AND state = 'active'
RETURNING key_id
"""


async def retire(conn: Connection, key_id: str, now: datetime, expire_time: datetime) -> bool:
    """Let the active key only verify, until `expire_time`; return False if it is not active."""
    return await conn.fetchval(_RETIRE, key_id, now, expire_time) is not None


_ACTIVATE = """
UPDATE signing_keys SET state = 'active', activate_time = $2
WHERE state = 'prepared' AND algorithm = $1 AND ($3::timestamptz IS NULL OR create_time <= $3)
RETURNING key_id
"""


async def activate_prepared(
    conn: Connection, algorithm: str, now: datetime, published_by: datetime | None = None
) -> str | None:
    """Activate the prepared key if it is of `algorithm`; return its id.

    If `published_by` is given, only one that was published by then. Only in a transaction that has
    just retired or revoked the active key.
    """
    key_id: str | None = await conn.fetchval(_ACTIVATE, algorithm, now, published_by)
    return key_id


_REQUEST_ROTATION = """
UPDATE signing_keys SET rotate_request_time = $2
WHERE key_id = $1 AND state = 'active' AND rotate_request_time IS NULL
RETURNING key_id
"""


async def request_rotation(conn: Connection, key_id: str, now: datetime) -> bool:
    """Note that the active key is to be replaced; return False if it isn't active, or was noted."""
    return await conn.fetchval(_REQUEST_ROTATION, key_id, now) is not None


_REVOKE = """
UPDATE signing_keys SET state = 'revoked', revoke_time = $2, expire_time = $3
WHERE key_id = $1 AND state <> 'revoked'
RETURNING activate_time IS NOT NULL AND retire_time IS NULL
"""


async def revoke(
    conn: Connection, key_id: str, now: datetime, expire_time: datetime
) -> bool | None:
    """Mark a key as revoked and return whether it was the active one.

    Return None if there is no such key or it is already marked.
    """
    was_active: bool | None = await conn.fetchval(_REVOKE, key_id, now, expire_time)
    return was_active


_DELETE_PREPARED = """
DELETE FROM signing_keys WHERE key_id = $1 AND state = 'prepared'
RETURNING key_id
"""


async def delete_prepared(conn: Connection, key_id: str) -> bool:
    """Remove a key that has never signed; return False if it is no longer only prepared."""
    return await conn.fetchval(_DELETE_PREPARED, key_id) is not None


_DELETE_EXPIRED = """
DELETE FROM signing_keys
WHERE state IN ('retired', 'revoked') AND expire_time <= $1 AND key_id <> ALL($2::text[])
"""


async def delete_expired(conn: Connection, now: datetime, kept: Sequence[str]) -> None:
    """Remove the keys whose last token has expired, but for those with the ids `kept`."""
    await conn.execute(_DELETE_EXPIRED, now, kept)


def _row(record: asyncpg.Record) -> SigningKeyRow:
    info = SigningKeyInfo(
        key_id=record["key_id"],
        algorithm=record["algorithm"],
        state=KeyState(record["state"]),
        create_time=record["create_time"],
        activate_time=record["activate_time"],
        retire_time=record["retire_time"],
        revoke_time=record["revoke_time"],
        expire_time=record["expire_time"],
        rotate_request_time=record["rotate_request_time"],
    )
    return SigningKeyRow(info, record["sealed_key"])
