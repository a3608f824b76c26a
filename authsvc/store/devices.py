"""Owns the rows of devices: where each user logged in before, and their count of failed logins."""

from datetime import datetime

from authsvc.models import UserId
from authsvc.store.database import Connection
from authsvc.store.users import Credential, credential_from

# Waits for no flush, as the claim in users.py.
_CLAIM_ATTEMPT = """
UPDATE devices SET failed_logins = devices.failed_logins + 1
FROM users
WHERE users.email_canonical = $1 AND users.status = 'active'
    AND devices.user_id = users.user_id AND devices.device_hash = $2
    AND devices.failed_logins < $3
RETURNING users.user_id, users.password_hash, users.pepper_id,
    set_config('synchronous_commit', 'off', true)
"""


async def claim_attempt(
    connection: Connection, email_canonical: str, device_hash: bytes, max_failures: int
) -> Credential | None:
    """Count a failed login from a known device beforehand; as `users.claim_attempt`."""
    row = await connection.fetchrow(_CLAIM_ATTEMPT, email_canonical, device_hash, max_failures)
    return credential_from(row)


_RELEASE_ATTEMPT = """
UPDATE devices SET failed_logins = greatest(failed_logins - 1, 0)
WHERE user_id = $1 AND device_hash = $2
"""


async def release_attempt(
    connection: Connection, user_id: UserId | None, device_hash: bytes
) -> None:
    """Take back a claim that led to no evaluation; None: there was none."""
    await connection.execute(_RELEASE_ATTEMPT, user_id, device_hash)


_KEPT = 20
_REMEMBER = """
WITH forgotten AS (
    DELETE FROM devices WHERE user_id = $1 AND device_hash IN (
        SELECT device_hash FROM devices WHERE user_id = $1 AND device_hash <> $2
        ORDER BY last_use_time DESC OFFSET $4)
)
INSERT INTO devices (user_id, device_hash, last_use_time) VALUES ($1, $2, $3)
ON CONFLICT (user_id, device_hash) DO UPDATE SET failed_logins = 0, last_use_time = $3
"""


async def remember(
    connection: Connection, user_id: UserId, device_hash: bytes, now: datetime
) -> None:
    """Note that the user logged in from this device, and forget its failures.

    The 20 used last are kept. The caller holds the user's row.
    """
    await connection.execute(_REMEMBER, user_id, device_hash, now, _KEPT - 1)
