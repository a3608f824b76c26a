"""Owns the rows of devices: those each user has logged in from, and which of them are trusted."""

from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection

_KEPT = 20
_REMEMBER = """
WITH forgotten AS (
    DELETE FROM devices WHERE user_id = $1 AND device_hash IN (
        SELECT device_hash FROM devices WHERE user_id = $1 AND device_hash <> $2
        ORDER BY last_use_time DESC OFFSET $4)
)
INSERT INTO devices (user_id, device_hash, last_use_time) VALUES ($1, $2, $3)
ON CONFLICT (user_id, device_hash) DO UPDATE SET last_use_time = $3
"""


async def remember(
    connection: Connection, user_id: UserId, device_hash: bytes, now: datetime
) -> None:
    """Record that the user logged in from this device.

    Only the 20 most recently used are kept. The caller has locked the user's row.
    """
    await connection.execute(_REMEMBER, user_id, device_hash, now, _KEPT - 1)


_IS_TRUSTED = """
SELECT trust_expire_time > $3 FROM devices WHERE user_id = $1 AND device_hash = $2
"""


async def is_trusted(
    connection: Connection, user_id: UserId, device_hash: bytes, now: datetime
) -> bool:
    """Return whether this user may log in from this device without a second factor."""
    return bool(await connection.fetchval(_IS_TRUSTED, user_id, device_hash, now))


_TRUST = """
UPDATE devices SET trust_expire_time = $3 WHERE user_id = $1 AND device_hash = $2
"""


async def trust(
    connection: Connection, user_id: UserId, device_hash: bytes, expire_time: datetime
) -> None:
    """Trust a remembered device: until then, this user needs no second factor on it."""
    await connection.execute(_TRUST, user_id, device_hash, expire_time)


_FORGET_TRUST = """
WITH under_way AS (DELETE FROM challenges WHERE user_id = $1 AND kind = 'mfa')
UPDATE devices SET trust_expire_time = NULL WHERE user_id = $1
"""


async def forget_trust(connection: Connection, user_id: UserId) -> None:
    """Trust no device of this user any longer, and end logins that wait for a second factor.

    Called when a password or factor has changed, since the trust and those logins relied on the old
    one. The caller has locked the user's row.
    """
    await connection.execute(_FORGET_TRUST, user_id)
