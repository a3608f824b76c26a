"""Owns the rows of one-time codes: replacement, limited tries per network and in all, single use.

Lock order: statements that create, try or delete a user's code lock the user's row before the
code's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from authsvc.models.ids import UserId
from authsvc.store.decoys import WRITE_DECOY
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A new code; `user_id` is None if no account has the address."""

    code_id: UUID
    purpose: str
    email_canonical: str
    user_id: UserId | None
    mac: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class CodeClaim:
    """A try at the code of one purpose, address and user; with `code_id`, at that code only.

    `macs` are the entered code's MACs under each key. Without `may_match`, no code is right.
    `network` stands for the client's network in the count of tries.
    """

    purpose: str
    email_canonical: str
    user_id: UserId | None
    code_id: UUID | None
    macs: Sequence[bytes] = field(repr=False)
    may_match: bool
    network: str


class TryLimits(NamedTuple):
    """How many tries a code has: from each client network, and in all."""

    per_network: int
    in_all: int


# Locking comes first, as only locked rows are counted.
_REPLACE = """
WITH owner AS (SELECT FROM users WHERE user_id = $4 FOR NO KEY UPDATE)
INSERT INTO one_time_codes
    (code_id, purpose, email_canonical, user_id, code_hash, create_time, expire_time)
SELECT $1, $2, $3, $4, sha256(uuid_send($1) || $5), $6, $7
FROM (SELECT count(*) FROM owner) AS locked (owners)
WHERE $4::uuid IS NULL OR locked.owners = 1
ON CONFLICT (email_canonical, purpose, user_id) WHERE purpose <> 'login' DO UPDATE SET
    code_id = excluded.code_id, code_hash = excluded.code_hash, attempts = 0,
    network_attempts = '{}',
    create_time = excluded.create_time, expire_time = excluded.expire_time, use_time = NULL
RETURNING true
"""


async def replace(connection: Connection, row: CodeRow) -> bool:
    """Store a code in place of the previous one with the same purpose, address and user.

    Login codes replace no other: each belongs to its own challenge, and if a stranger's request
    replaced the user's code, the user could not log in. Return False, and store nothing, if its
    user was deleted. The user's row stays locked until the transaction ends.
    """
    stored = await connection.fetchval(
        _REPLACE,
        row.code_id,
        row.purpose,
        row.email_canonical,
        row.user_id,
        row.mac,
        row.create_time,
        row.expire_time,
    )
    return stored is not None


_FIND_ADDRESS = "SELECT email_canonical FROM one_time_codes WHERE code_id = $1 AND purpose = $2"


async def find_address(connection: Connection, code_id: UUID, purpose: str) -> str | None:
    """Return the canonical address that a code was issued for."""
    address: str | None = await connection.fetchval(_FIND_ADDRESS, code_id, purpose)
    return address


_TRIABLE = """
    email_canonical = $1 AND purpose = $2 AND user_id IS NOT DISTINCT FROM $3
    AND ($4::uuid IS NULL OR code_id = $4)
    AND use_time IS NULL AND expire_time > $7
    AND ($8::integer IS NULL OR attempts < $8)
    AND ($9::integer IS NULL OR coalesce((network_attempts ->> $10)::integer, 0) < $9)
"""
# One statement counts, compares and uses up. A caller that waited for the row sees its latest
# state: counted, used, or replaced by a code whose hash is of another id. If there is no code to
# try, a decoy is written instead. The commit of a try that isn't right does not wait for a flush:
# the answer is sent only after the commit that records the failure, and that flushes this one too.
_CLAIM = f"""
WITH owner AS (
    SELECT FROM users
    WHERE user_id = $3 AND EXISTS (SELECT FROM one_time_codes WHERE {_TRIABLE})
    FOR NO KEY UPDATE
), claimed AS (
    UPDATE one_time_codes SET attempts = attempts + 1,
        network_attempts = CASE
            WHEN $9::integer IS NULL THEN network_attempts
            ELSE jsonb_set(network_attempts, ARRAY[$10],
                to_jsonb(coalesce((network_attempts ->> $10)::integer, 0) + 1))
        END,
        use_time = CASE
            WHEN $6 AND code_hash = ANY (ARRAY(
                SELECT sha256(uuid_send(code_id) || mac) FROM unnest($5::bytea[]) AS mac)) THEN $7
        END
    WHERE ($3 IS NULL OR EXISTS (SELECT FROM owner)) AND {_TRIABLE}
    RETURNING use_time IS NOT NULL AS matched, CASE
        WHEN use_time IS NULL THEN set_config('synchronous_commit', 'off', true)
    END
), decoy AS ({WRITE_DECOY})
SELECT bool_or(matched) FROM claimed
"""  # noqa: S608 - made of constants


async def claim(
    connection: Connection, claim: CodeClaim, now: datetime, limits: TryLimits | None
) -> bool:
    """Count a try and use the code up if it is right; return whether it was.

    A code is not right if it does not exist, was used, has expired or has no tries left; without
    `limits`, tries are not limited. If it exists, its user's row stays locked until the transaction
    ends. If it is not right, the transaction's commit will not wait for a flush.
    """
    matched: bool | None = await connection.fetchval(
        _CLAIM,
        claim.email_canonical,
        claim.purpose,
        claim.user_id,
        claim.code_id,
        claim.macs,
        claim.may_match,
        now,
        limits.in_all if limits is not None else None,
        limits.per_network if limits is not None else None,
        claim.network,
    )
    return matched is True


_DELETE_OF_USER = "DELETE FROM one_time_codes WHERE user_id = $1"


async def delete_of_user(connection: Connection, user_id: UserId) -> None:
    """Delete all codes of a user, for any purpose; the caller has locked the user's row."""
    await connection.execute(_DELETE_OF_USER, user_id)


_DELETE_EXPIRED = """
DELETE FROM one_time_codes WHERE code_id = ANY (ARRAY(
    SELECT code_id FROM one_time_codes WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_expired(connection: Connection, before: datetime, limit: int) -> int:
    """Delete codes, used or not, that expired before that time; return how many."""
    tag = await connection.execute(_DELETE_EXPIRED, before, limit)
    return int(tag.rpartition(" ")[2])
