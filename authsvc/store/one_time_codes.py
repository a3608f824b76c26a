"""Owns the rows of one-time codes: replaced by a newer one, tried a few times, used once.

Locks: whoever makes, tries or deletes a user's code holds the user's row before the code's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from authsvc.models.ids import UserId
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
    """A try at the code of one purpose, address and user; with `code_id`, at that one only.

    `macs` are those that the typed code has under each key. Without `may_match` none is right.
    """

    purpose: str
    email_canonical: str
    user_id: UserId | None
    code_id: UUID | None
    macs: Sequence[bytes] = field(repr=False)
    may_match: bool


# The count is of what is locked, which therefore comes first.
_REPLACE = """
WITH owner AS (SELECT FROM users WHERE user_id = $4 FOR NO KEY UPDATE)
INSERT INTO one_time_codes
    (code_id, purpose, email_canonical, user_id, code_hash, create_time, expire_time)
SELECT $1, $2, $3, $4, sha256(uuid_send($1) || $5), $6, $7 FROM (SELECT count(*) FROM owner) AS held
ON CONFLICT (email_canonical, purpose, user_id) DO UPDATE SET
    code_id = excluded.code_id, code_hash = excluded.code_hash, attempts = 0,
    create_time = excluded.create_time, expire_time = excluded.expire_time, use_time = NULL
"""


async def replace(connection: Connection, row: CodeRow) -> None:
    """Store a code in place of the one before of the same purpose, address and user."""
    await connection.execute(
        _REPLACE,
        row.code_id,
        row.purpose,
        row.email_canonical,
        row.user_id,
        row.mac,
        row.create_time,
        row.expire_time,
    )


_FIND_ADDRESS = "SELECT email_canonical FROM one_time_codes WHERE code_id = $1 AND purpose = $2"


async def find_address(connection: Connection, code_id: UUID, purpose: str) -> str | None:
    """Return the canonical address that a code was made for."""
    address: str | None = await connection.fetchval(_FIND_ADDRESS, code_id, purpose)
    return address


_TRIABLE = """
    email_canonical = $1 AND purpose = $2 AND user_id IS NOT DISTINCT FROM $3
    AND ($4::uuid IS NULL OR code_id = $4)
    AND use_time IS NULL AND expire_time > $7 AND attempts < $8
"""
# One statement counts, compares and uses up. Who waited for the row meets it as it is then:
# counted, used, or replaced by a code whose hash is of another id. Where there is no code to try,
# the user's row isn't locked: that takes a flush, which would tell that the account exists.
_CLAIM = f"""
WITH owner AS (
    SELECT FROM users
    WHERE user_id = $3 AND EXISTS (SELECT FROM one_time_codes WHERE {_TRIABLE})
    FOR NO KEY UPDATE
)
UPDATE one_time_codes SET attempts = attempts + 1, use_time = CASE
    WHEN $6 AND code_hash = ANY (ARRAY(
        SELECT sha256(uuid_send(code_id) || mac) FROM unnest($5::bytea[]) AS mac)) THEN $7
    END
WHERE ($3 IS NULL OR EXISTS (SELECT FROM owner)) AND {_TRIABLE}
RETURNING use_time IS NOT NULL
"""  # noqa: S608 - made of constants


async def claim(connection: Connection, claim: CodeClaim, now: datetime, max_attempts: int) -> bool:
    """Count a try and use the code up if it is right; return whether it was.

    It was not if there is no such code, it was used, it has expired, or it was tried
    `max_attempts` times. Where there is one, its user's row is held until the transaction ends.
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
        max_attempts,
    )
    return matched is True


_DELETE_OF_USER = "DELETE FROM one_time_codes WHERE user_id = $1"


async def delete_of_user(connection: Connection, user_id: UserId) -> None:
    """Forget all codes of a user, whatever for; the caller holds the user's row."""
    await connection.execute(_DELETE_OF_USER, user_id)


_DELETE_EXPIRED = """
DELETE FROM one_time_codes WHERE code_id = ANY (ARRAY(
    SELECT code_id FROM one_time_codes WHERE expire_time < $1
    ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_expired(connection: Connection, before: datetime, limit: int) -> int:
    """Delete codes, used or not, that expired before then; return how many."""
    tag = await connection.execute(_DELETE_EXPIRED, before, limit)
    return int(tag.rpartition(" ")[2])
