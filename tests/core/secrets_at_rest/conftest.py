"""Sealed values of every column, in real rows."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio

from authsvc.core.lib.sealing import Keyring
from authsvc.models.sealing import (
    ACCOUNTS,
    MESSAGES,
    SEALED_COLUMNS,
    SEEDS,
    SIGNING_KEYS,
    VERIFIERS,
    SealedColumn,
)
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.stored import add_user

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=365)

_INSERTS = {
    SIGNING_KEYS: "INSERT INTO signing_keys (key_id, algorithm, state, sealed_key, create_time)"
    " VALUES ($1, 'ES256', 'retired', $2, now())",
    SEEDS: "INSERT INTO factors (factor_id, user_id, kind, sealed_seed, create_time)"
    " VALUES ($1, $3, 'totp', $2, now())",
    MESSAGES: "INSERT INTO outbox (message_id, kind, sealed_content, create_time, next_time,"
    " expire_time) VALUES ($1, 'factor_added', $2, now(), 'infinity', 'infinity')",
    VERIFIERS: "INSERT INTO oauth_states (state_hash, provider, redirect_uri, sealed_verifier,"
    " create_time, expire_time) VALUES ($1, 'github', '', $2, now(), 'infinity')",
    ACCOUNTS: "INSERT INTO challenges (challenge_id, kind, sealed_account, create_time,"
    " expire_time) VALUES ($1, 'passkey_login', $2, now(), 'infinity')",
}


def row_of(column: SealedColumn) -> Any:
    """Return a new primary key for a row of the column's table."""
    return {"text": str(uuid4()), "bytea": os.urandom(32)}.get(column.row_type, uuid4())


@dataclass
class Sealed:
    """A database with sealed values, of which it knows the plaintexts."""

    database: Database
    user_id: UUID
    plaintexts: dict[tuple[SealedColumn, Any], bytes] = field(default_factory=dict)

    async def add(
        self, keyring: Keyring, count: int = 1, *, to: SealedColumn | None = None
    ) -> list[tuple[SealedColumn, Any]]:
        """Add rows with values that `keyring` seals, to one column or to each."""
        added = []
        async with self.database.transaction() as connection:
            for column in [to] if to else SEALED_COLUMNS:
                for _ in range(count):
                    row, plaintext = row_of(column), os.urandom(20)
                    await self.insert(
                        connection, column, row, keyring.seal(plaintext, **column.place(row))
                    )
                    self.plaintexts[column, row] = plaintext
                    added.append((column, row))
        return added

    async def insert(
        self, connection: Connection, column: SealedColumn, row: Any, sealed: bytes
    ) -> None:
        more = [self.user_id] if column is SEEDS else []
        await connection.execute(_INSERTS[column], row, sealed, *more)

    async def values(self) -> dict[tuple[SealedColumn, Any], bytes]:
        """Return all stored values, sealed."""
        found: dict[tuple[SealedColumn, Any], bytes] = {}
        async with self.database.connection() as connection:
            for column in SEALED_COLUMNS:
                rows = await connection.fetch(
                    f"SELECT {column.row} AS row, {column.column} AS sealed FROM {column.table}"
                )
                found |= {(column, row["row"]): row["sealed"] for row in rows}
        return found

    async def assert_readable(self, keyring: Keyring) -> None:
        """Assert that every value is the one that was stored, and opens with these keys."""
        opened = {
            (column, row): keyring.open(value, **column.place(row))
            for (column, row), value in (await self.values()).items()
        }
        assert opened == self.plaintexts


@pytest_asyncio.fixture
async def sealed(database: Database) -> AsyncIterator[Sealed]:
    async with database.connection() as connection:
        user_id = await add_user(connection)
    yield Sealed(database, user_id)
