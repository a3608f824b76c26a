"""Owns the rows of challenges of kind `mfa`: logins that wait for a second factor."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from authsvc.models.ids import FactorId, UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Challenge:
    """A login that waits for a second factor; its first was proved by `methods` (RFC 8176).

    `factor_id` is the factor that has to be confirmed to log in, or None if a confirmed one is
    required. `passkey` is the WebAuthn challenge, or None if there is none or it was used.
    """

    challenge_id: UUID
    user_id: UserId
    methods: tuple[str, ...]
    factor_id: FactorId | None = None
    passkey: bytes | None = field(default=None, repr=False)


_KEPT = 20
# Only a user's newest challenges are kept, so that knowing a password is not enough to fill the
# table.
_CREATE = """
WITH forgotten AS (
    DELETE FROM challenges WHERE user_id = $2 AND kind = 'mfa' AND challenge_id IN (
        SELECT challenge_id FROM challenges WHERE user_id = $2 AND kind = 'mfa'
        ORDER BY challenge_id DESC OFFSET $9)
)
INSERT INTO challenges (challenge_id, kind, user_id, token_hash, methods, factor_id, passkey,
    create_time, expire_time)
VALUES ($1, 'mfa', $2, $3, $4, $5, $6, $7, $8)
"""


async def create(
    connection: Connection,
    challenge: Challenge,
    token_hash: bytes,
    create_time: datetime,
    expire_time: datetime,
) -> None:
    """Store a challenge under the SHA-256 of its token; the caller has locked the user's row."""
    await connection.execute(
        _CREATE,
        challenge.challenge_id,
        challenge.user_id,
        token_hash,
        list(challenge.methods),
        challenge.factor_id,
        challenge.passkey,
        create_time,
        expire_time,
        _KEPT - 1,
    )


_FIND_ACCOUNT = """
SELECT users.email_canonical, challenges.methods FROM challenges JOIN users USING (user_id)
WHERE token_hash = $1 AND kind = 'mfa' AND expire_time > $2 AND attempts < $3
"""


async def find_account(
    connection: Connection, token_hash: bytes, now: datetime, max_attempts: int
) -> tuple[str, tuple[str, ...]] | None:
    """Return the canonical address of an unexpired challenge's account, and its methods so far."""
    row = await connection.fetchrow(_FIND_ACCOUNT, token_hash, now, max_attempts)
    return None if row is None else (row["email_canonical"], tuple(row["methods"]))


# Does not wait for a flush, like the claim in users.py.
_CLAIM_ATTEMPT = """
UPDATE challenges SET attempts = attempts + 1
WHERE token_hash = $1 AND kind = 'mfa' AND expire_time > $2 AND attempts < $3
RETURNING challenge_id, user_id, methods, factor_id, passkey,
    set_config('synchronous_commit', 'off', true)
"""


async def claim_attempt(
    connection: Connection, token_hash: bytes, now: datetime, max_attempts: int
) -> Challenge | None:
    """Count an attempt in advance; return None if the challenge is unknown, expired or used up."""
    row = await connection.fetchrow(_CLAIM_ATTEMPT, token_hash, now, max_attempts)
    if row is None:
        return None
    return Challenge(
        row["challenge_id"],
        UserId(row["user_id"]),
        tuple(row["methods"]),
        row["factor_id"] and FactorId(row["factor_id"]),
        row["passkey"],
    )


_TAKE_PASSKEY = """
UPDATE challenges SET passkey = NULL WHERE challenge_id = $1 AND passkey IS NOT NULL
RETURNING challenge_id
"""


async def take_passkey(connection: Connection, challenge_id: UUID) -> bool:
    """Use up the WebAuthn challenge of a challenge; return False if it was used."""
    return await connection.fetchval(_TAKE_PASSKEY, challenge_id) is not None


_FINISH = "DELETE FROM challenges WHERE challenge_id = $1 RETURNING challenge_id"


async def finish(connection: Connection, challenge_id: UUID) -> bool:
    """Use up a challenge; return False if it was used or deleted."""
    return await connection.fetchval(_FINISH, challenge_id) is not None


_DELETE_EXPIRED = """
DELETE FROM challenges WHERE challenge_id = ANY (ARRAY(
    SELECT challenge_id FROM challenges WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_expired(connection: Connection, before: datetime, limit: int) -> int:
    """Delete challenges of any kind that expired before that time; return how many."""
    tag = await connection.execute(_DELETE_EXPIRED, before, limit)
    return int(tag.rpartition(" ")[2])
