"""Owns the rows of recovery codes, which are replaced together and used once each."""

from collections.abc import Sequence
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection

_REPLACE = """
WITH replaced AS (DELETE FROM recovery_codes WHERE user_id = $1)
INSERT INTO recovery_codes (user_id, code_hash, key_id, create_time)
SELECT $1, code_hash, $3, $4 FROM unnest($2::bytea[]) AS new (code_hash)
"""


async def replace(
    connection: Connection, user_id: UserId, hashes: Sequence[bytes], key_id: str, now: datetime
) -> None:
    """Replace the user's codes with new hashes under a key of the keyring.

    The caller has locked the user's row.
    """
    await connection.execute(_REPLACE, user_id, list(hashes), key_id, now)


_COUNT = "SELECT count(*) FROM recovery_codes WHERE user_id = $1"


async def count(connection: Connection, user_id: UserId) -> int:
    """Return how many codes the user has left."""
    return int(await connection.fetchval(_COUNT, user_id))


_CLAIM = """
DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = any($2) RETURNING code_hash
"""


async def claim(connection: Connection, user_id: UserId, hashes: Sequence[bytes]) -> bool:
    """Use up the code with one of these hashes; return False if the user has none."""
    return await connection.fetchval(_CLAIM, user_id, list(hashes)) is not None


_DELETE = "DELETE FROM recovery_codes WHERE user_id = $1"


async def delete(connection: Connection, user_id: UserId) -> None:
    """Delete all codes of a user."""
    await connection.execute(_DELETE, user_id)
