"""A fixture for imports: files made from rows, on a real database, with cheap hashes."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from authsvc.config import ImportSettings
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.roles.permissions import Permissions
from authsvc.core.user_transfer.exporting import UserExport
from authsvc.core.user_transfer.import_rows import RowFailure
from authsvc.core.user_transfer.importing import ImportCounts, ImportOptions, UserImport
from authsvc.store.postgres.database import Database
from tests.support.accounts import CLI, PEPPERS, cheap_passwords
from tests.support.clock import FakeClock

ROLES = Permissions(dict.fromkeys(("admin", "a", "b"), ()))


@dataclass
class Importer:
    """Imports and exports users of one database; `failures` are those of the last import."""

    database: Database
    hasher: PasswordHasher
    clock: FakeClock
    settings: ImportSettings = field(default_factory=ImportSettings)
    directory_domains: bool = False
    failures: list[RowFailure] = field(default_factory=list)

    async def run(
        self, *rows: object, dry_run: bool = False, accept_weak_hashes: bool = False
    ) -> tuple[int, int, int]:
        """Import rows, with bytes and text as they are; return (imported, skipped, failed)."""
        options = ImportOptions(accept_weak_hashes=accept_weak_hashes, dry_run=dry_run)
        counts = await self.read(b"".join(map(line, rows)), options)
        return counts.imported, counts.skipped, counts.failed

    async def read(self, data: bytes, options: ImportOptions) -> ImportCounts:
        """Import a file."""

        async def parts() -> AsyncIterator[bytes]:
            yield data

        self.failures.clear()
        work = UserImport(
            database=self.database,
            hasher=self.hasher,
            permissions=ROLES,
            settings=self.settings,
            clock=self.clock,
            directory_domains=self.directory_domains,
        )
        return await work.run(CLI, parts(), options, self.failures.append)

    async def export(self, *, with_passwords: bool = True) -> list[dict[str, Any]]:
        """Return the exported users."""
        users = UserExport(self.database, self.clock).run(CLI, with_passwords=with_passwords)
        return [json.loads(user.line) async for user in users]

    async def fetch(self, query: str) -> list[asyncpg.Record]:
        """Return the result of a query."""
        async with self.database.connection() as connection:
            return await connection.fetch(query)


def line(row: object) -> bytes:
    """Return a row as a line of a file."""
    if isinstance(row, bytes):
        return row + b"\n"
    return (row if isinstance(row, str) else json.dumps(row)).encode() + b"\n"


@pytest.fixture
def importer(database: Database, clock: FakeClock) -> Iterator[Importer]:
    """Imports into this test's own database."""
    hasher = PasswordHasher(cheap_passwords(), PEPPERS)
    yield Importer(database, hasher, clock)
    hasher.close()
