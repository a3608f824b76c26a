"""Schemas made of a few migrations, for tests of the migrator and of upgrades."""

from collections.abc import Mapping, Sequence

import asyncpg

from authsvc.store.postgres.migrations import Schema, read_migrations


def schema_of(
    files: Sequence[tuple[str, bytes]], releases: Mapping[str, int] | None = None
) -> Schema:
    """Return the schema that these files (name, content) make, with the releases' last numbers."""
    return Schema(read_migrations(files), releases or {})


async def run_sql(dsn: str, statement: str) -> list[asyncpg.Record]:
    """Run one statement on a connection of its own, and return its rows."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()
