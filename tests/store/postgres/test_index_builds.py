"""Indexes built beside calls: interrupted, left unfinished, of partitions, twice at once."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from authsvc.store.postgres.migrations import Schema, SchemaError
from authsvc.store.postgres.migrator import migrate
from tests.support.databases import until
from tests.support.migrations import run_sql, schema_of

_TABLE = ("0001_table.sql", b"CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2);")
_INDEX = ("0002_index.sql", b"CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n);")
_AFTER = ("0003_after.sql", b"CREATE TABLE after (n int);")
_PARTITIONS = (
    "0001_table.sql",
    b"""
CREATE TABLE t (n int, month int) PARTITION BY LIST (month);
CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
CREATE TABLE t_default PARTITION OF t DEFAULT;
INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);
""",
)
_INDEX_OF_PARTITIONS = ("0002_index.sql", b"CREATE INDEX CONCURRENTLY t_n ON t (n) WHERE n > 0;")
_VALID = """
SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index
WHERE indexrelid::regclass::text LIKE 't%_n%' ORDER BY 1
"""
_WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_progress_create_index
               WHERE datname = current_database() AND phase LIKE 'waiting for%')
"""


@pytest.fixture
def schema() -> Schema:
    return schema_of([_TABLE, _INDEX, _AFTER])


@pytest_asyncio.fixture
async def other(blank_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Another connection, after the first migration."""
    await migrate(blank_dsn, schema_of([_TABLE]))
    connection = await asyncpg.connect(blank_dsn)
    yield connection
    await connection.close()


async def _validity(dsn: str) -> dict[str, bool]:
    return {row["name"]: row["indisvalid"] for row in await run_sql(dsn, _VALID)}


async def _build_waits(dsn: str) -> None:
    async def waits() -> bool:
        return bool((await run_sql(dsn, _WAITS))[0][0])

    await until(waits)


async def test_index_is_built_while_others_write(
    blank_dsn: str, other: "asyncpg.Connection[asyncpg.Record]", schema: Schema
) -> None:
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (3)")
        task = asyncio.create_task(migrate(blank_dsn, schema))
        await _build_waits(blank_dsn)
        # A lock on the table would make these wait, for as long as the transaction is open.
        await run_sql(blank_dsn, "INSERT INTO t VALUES (4)")
        # Nor does the migrator keep one of 0.1.0 waiting, for whose snapshot the build would wait.
        await run_sql(blank_dsn, f"SELECT pg_advisory_xact_lock({0x61757468737663})")
    assert await task == [2, 3]
    assert await _validity(blank_dsn) == {"t_n": True}


async def test_build_that_was_interrupted_is_repeated(
    blank_dsn: str, other: "asyncpg.Connection[asyncpg.Record]", schema: Schema
) -> None:
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (3)")
        task = asyncio.create_task(migrate(blank_dsn, schema))
        await _build_waits(blank_dsn)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: _has(blank_dsn, {"t_n": False}))
    said: list[str] = []
    assert await migrate(blank_dsn, schema, say=said.append) == [2, 3]
    assert said == ["The index t_n was left unfinished; it is dropped and built again."]
    assert await _validity(blank_dsn) == {"t_n": True}


async def _has(dsn: str, validity: dict[str, bool]) -> bool:
    return await _validity(dsn) == validity


async def test_build_that_the_server_goes_on_with_is_waited_for(
    blank_dsn: str, other: "asyncpg.Connection[asyncpg.Record]", schema: Schema
) -> None:
    """As after a migrator was killed: the server notices that only when it answers."""
    orphan = await asyncpg.connect(blank_dsn)
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (3)")
        build = asyncio.create_task(orphan.execute(_INDEX[1].decode()))
        await _build_waits(blank_dsn)
        said: list[str] = []
        task = asyncio.create_task(migrate(blank_dsn, schema, say=said.append))
        await until(lambda: _looks_at_progress(blank_dsn))
    await build
    assert await task == [2, 3]
    assert said == []
    assert await _validity(blank_dsn) == {"t_n": True}
    await orphan.close()


async def _looks_at_progress(dsn: str) -> bool:
    """Return whether the migrator has seen the index that is being built."""
    rows = await run_sql(
        dsn,
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' "
        "AND query LIKE '%indisvalid AND indisready%' AND pid <> pg_backend_pid()",
    )
    return bool(rows)


async def test_failed_build_says_why_and_can_be_repeated(
    blank_dsn: str, other: "asyncpg.Connection[asyncpg.Record]", schema: Schema
) -> None:
    await other.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(SchemaError, match=r"Migration 2 \(index\) failed: could not create unique"):
        await migrate(blank_dsn, schema)
    assert await _validity(blank_dsn) == {"t_n": False}
    await other.execute("DELETE FROM t WHERE n = 1")
    assert await migrate(blank_dsn, schema) == [2, 3]
    assert await _validity(blank_dsn) == {"t_n": True}


async def test_parallel_migrators_build_once(
    blank_dsn: str, other: "asyncpg.Connection[asyncpg.Record]", schema: Schema
) -> None:
    said: list[str] = []
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (3)")
        tasks = [asyncio.create_task(migrate(blank_dsn, schema, say=said.append)) for _ in range(3)]
        await _build_waits(blank_dsn)
        await until(lambda: _count(said, 2))
    assert sorted(await asyncio.gather(*tasks)) == [[], [], [2, 3]]
    assert set(said) == {"Another migrator is at work; this one waits for its end."}
    assert await _validity(blank_dsn) == {"t_n": True}


async def _count(lines: list[str], count: int) -> bool:
    return len(lines) == count


async def test_index_of_partitions_is_built_one_by_one_and_resumed(blank_dsn: str) -> None:
    await migrate(blank_dsn, schema_of([_PARTITIONS]))
    # As after a crash: the first partition is done, the second one's index is unfinished.
    for statement in (
        "CREATE INDEX t_n ON ONLY t (n) WHERE n > 0",
        "CREATE INDEX t_n_1 ON t_1 (n) WHERE n > 0",
        "ALTER INDEX t_n ATTACH PARTITION t_n_1",
        "INSERT INTO t VALUES (2, 2)",
    ):
        await run_sql(blank_dsn, statement)
    with pytest.raises(asyncpg.UniqueViolationError):
        await run_sql(blank_dsn, "CREATE UNIQUE INDEX CONCURRENTLY t_n_2 ON t_2 (n)")
    [(first,)] = await run_sql(blank_dsn, "SELECT 't_n_1'::regclass::oid")
    said: list[str] = []
    schema = schema_of([_PARTITIONS, _INDEX_OF_PARTITIONS])
    assert await migrate(blank_dsn, schema, say=said.append) == [2]
    assert said == ["The index t_n_2 was left unfinished; it is dropped and built again."]
    parts = {"t_n": True, "t_n_1": True, "t_n_2": True, "t_n_default": True}
    assert await _validity(blank_dsn) == parts
    [(same,)] = await run_sql(blank_dsn, "SELECT 't_n_1'::regclass::oid")
    assert first == same
    # A later partition gets the index by itself.
    await run_sql(blank_dsn, "CREATE TABLE t_4 PARTITION OF t FOR VALUES IN (4)")
    assert len(await _validity(blank_dsn)) == 4 + 1


async def test_index_is_dropped_concurrently(blank_dsn: str, schema: Schema) -> None:
    await migrate(blank_dsn, schema)
    drop = ("0004_drop.sql", b"DROP INDEX CONCURRENTLY t_n;")
    schema = schema_of([_TABLE, _INDEX, _AFTER, drop])
    # As after a crash between the drop and the note of it.
    await run_sql(blank_dsn, "DROP INDEX t_n")
    assert await migrate(blank_dsn, schema) == [4]
    assert await _validity(blank_dsn) == {}
