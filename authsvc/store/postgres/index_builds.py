"""Owns building and dropping indexes without locking anybody out, in steps that can be resumed.

`CREATE INDEX CONCURRENTLY` leaves an invalid index if it fails. Such an index is dropped and built
again. If only its migrator dies, the server goes on with it, and the next migrator waits for that.
PostgreSQL builds none of a partitioned table that way, so here the index of each partition is built
by itself and attached; a partition that has its index is left alone.
"""

import asyncio
import re
from collections.abc import Callable

import asyncpg

from authsvc.store.postgres.connector import Connection, PoolConnection
from authsvc.store.postgres.migrations import IndexBuild, Kind, Migration
from authsvc.store.postgres.timeouts import NO_TRANSACTION_TIMEOUTS

# For a connection that no pooler shares. A build waits for the transactions before it, while it
# holds nobody up.
_WAIT = f"""
SELECT set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false),
    {NO_TRANSACTION_TIMEOUTS}
"""
_IS_PARTITIONED = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass($1)"
_SELECT_INDEX = """
SELECT indisvalid AND indisready AS is_valid,
    EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid) AS in_progress
FROM pg_index WHERE indexrelid = to_regclass($1)
"""
# Partitions without an index that is attached to this one.
_SELECT_UNATTACHED = """
SELECT child.inhrelid::regclass::text AS name
FROM pg_inherits AS child
WHERE child.inhparent = to_regclass($1)
    AND NOT EXISTS (
        SELECT FROM pg_inherits AS attached
        JOIN pg_index ON indexrelid = attached.inhrelid
        WHERE attached.inhparent = to_regclass($2) AND indrelid = child.inhrelid)
ORDER BY 1
"""
_GIVE_WAY = "SELECT set_config('lock_timeout', '500ms', true)"
_PAUSE = 0.5
# PostgreSQL cuts off longer names.
_MAX_NAME = 63
_NAME = re.compile(r"[a-z0-9_]+")


async def prepare(connection: PoolConnection) -> None:
    """Let a build wait as long as it has to, on a connection that does nothing else."""
    if connection.is_direct:
        await connection.execute(_WAIT)


async def run(connection: Connection, migration: Migration, say: Callable[[str], object]) -> None:
    """Build or drop the migration's index; go on where an earlier run was interrupted.

    Raises asyncpg.LockNotAvailableError or DeadlockDetectedError if it should be tried again.
    """
    if migration.kind is Kind.DROP_INDEX:
        await connection.execute(
            migration.statement.replace("CONCURRENTLY", "CONCURRENTLY IF EXISTS")
        )
        return
    assert migration.index is not None  # noqa: S101 - as its kind says
    if await connection.fetchval(_IS_PARTITIONED, migration.index.table):
        await _build_of_partitions(connection, migration.index, say)
    else:
        await _build(connection, migration.index, say)


async def _build_of_partitions(
    connection: Connection, index: IndexBuild, say: Callable[[str], object]
) -> None:
    async with connection.transaction():
        await connection.execute(_GIVE_WAY)
        await connection.execute(_create(index, "IF NOT EXISTS", only="ONLY"))
    while rows := await connection.fetch(_SELECT_UNATTACHED, index.table, index.name):
        partition = rows[0]["name"]
        part = IndexBuild(
            _name_of_part(index, partition), partition, unique=index.unique, rest=index.rest
        )
        try:
            await _build(connection, part, say)
            async with connection.transaction():
                await connection.execute(_GIVE_WAY)
                await connection.execute(f"ALTER INDEX {index.name} ATTACH PARTITION {part.name}")
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError):
            # Retention has dropped the partition.
            continue


async def _build(connection: Connection, index: IndexBuild, say: Callable[[str], object]) -> None:
    while True:
        row = await connection.fetchrow(_SELECT_INDEX, index.name)
        if row is None:
            await connection.execute(_create(index, "CONCURRENTLY"))
        elif row["is_valid"]:
            return
        elif row["in_progress"]:
            # The server finishes what a migrator began that has ended since.
            await asyncio.sleep(_PAUSE)
        else:
            say(f"The index {index.name} was left unfinished; it is dropped and built again.")
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}")


def _create(index: IndexBuild, how: str, only: str = "") -> str:
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX {how} {index.name} ON {only} {index.table} {index.rest}"


def _name_of_part(index: IndexBuild, partition: str) -> str:
    suffix = partition.removeprefix(index.table).strip("_")
    name = f"{index.name}_{suffix}"
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{name} can't name an index")
    return name
