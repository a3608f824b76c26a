"""Owns the rows of the outbox: messages to users, from being written to being delivered."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from authsvc.models import UserId
from authsvc.store.database import Connection


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A row to be written; a decoy is never claimed."""

    message_id: UUID
    kind: str
    user_id: UserId | None
    sealed_content: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime
    decoy: bool = False


_INSERT = """
INSERT INTO outbox (message_id, kind, user_id, sealed_content, state, create_time, next_time,
    expire_time, end_time)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8)
"""


async def insert(connection: Connection, row: NewMessage) -> None:
    """Write a message; whoever delivers is told when the transaction is committed."""
    await connection.execute(
        _INSERT,
        row.message_id,
        row.kind,
        row.user_id,
        row.sealed_content,
        "decoy" if row.decoy else "pending",
        row.create_time,
        row.expire_time,
        row.create_time if row.decoy else None,
    )
