"""Owns the rows of request receipts: what each create request with an id has made."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request made, and the keyed hash of that request."""

    fingerprint: bytes = field(repr=False)
    made: str


_FIND = "SELECT fingerprint, made FROM request_receipts WHERE request_id = $1"


async def find(connection: Connection, request_id: UUID) -> Receipt | None:
    """Return the receipt of the request with this id."""
    row = await connection.fetchrow(_FIND, request_id)
    return None if row is None else Receipt(**row)


_INSERT = """
INSERT INTO request_receipts (request_id, fingerprint, made, create_time) VALUES ($1, $2, $3, $4)
ON CONFLICT (request_id) DO NOTHING
RETURNING true
"""


async def insert(connection: Connection, request_id: UUID, receipt: Receipt, now: datetime) -> bool:
    """Store a receipt; return False if there is one of this id.

    If another transaction is storing one of this id, wait until it ends.
    """
    return bool(
        await connection.fetchval(_INSERT, request_id, receipt.fingerprint, receipt.made, now)
    )


_DELETE = """
DELETE FROM request_receipts WHERE request_id = ANY (ARRAY(
    SELECT request_id FROM request_receipts WHERE create_time < $1
    ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


async def delete_old(connection: Connection, before: datetime, limit: int) -> int:
    """Delete receipts older than that time; return how many."""
    tag = await connection.execute(_DELETE, before, limit)
    return int(tag.rpartition(" ")[2])
