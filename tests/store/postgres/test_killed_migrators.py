"""Migrators that are killed at work (kill -9): the next one goes on by itself."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrations import Schema, shipped_schema
from authsvc.store.postgres.migrator import migrate
from tests.support.databases import until
from tests.support.migrations import run_sql, schema_of

# The next migration changes the table that the test locks.
_BEGUN = Schema(shipped_schema().migrations[:26])
_FILES = [
    ("0001_table.sql", b"CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2);"),
    ("0002_index.sql", b"CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n);"),
    ("0003_after.sql", b"CREATE TABLE after (n int);"),
]
# A migrator of the files above.
_BUILD = (sys.executable, "-m", "tests.store.postgres.test_killed_migrators")
_DSN = "KILLED_MIGRATORS_DSN"
# Sessions of migrators that wait for a lock on a table.
_WAITING = """
SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND locktype = 'relation' AND datname = current_database()
"""
_BUILDING = """
SELECT pid FROM pg_stat_progress_create_index
WHERE datname = current_database() AND phase LIKE 'waiting for%'
"""
_LOOKING = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
    AND query LIKE '%indisvalid AND indisready%' AND pid <> pg_backend_pid()
"""


@asynccontextmanager
async def _running(command: Sequence[str], **environment: str) -> AsyncIterator[Process]:
    """Run a migrator in a process."""
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _kill(process: Process) -> None:
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def _until_one_is(dsn: str, doing: str, but: int | None = None) -> int:
    """Return the session of the only migrator that does so, once it isn't `but`."""
    found: list[int] = []

    async def is_there() -> bool:
        found[:] = [row["pid"] for row in await run_sql(dsn, doing)]
        return len(found) == 1 and found != [but]

    await until(is_there)
    return found[0]


@asynccontextmanager
async def _holding(dsn: str, statement: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a transaction that holds what the statement locks, until it is rolled back."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"BEGIN; {statement}")
        yield connection
    finally:
        await connection.close()


async def _is_valid(dsn: str) -> bool:
    [row] = await run_sql(
        dsn, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t_n')"
    )
    return bool(row["indisvalid"])


@pytest.mark.slow
async def test_migration_that_was_killed_does_not_keep_the_next_migrator_waiting(
    blank_dsn: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare()
    workspace.set_database(blank_dsn)
    command = (sys.executable, "-m", "authsvc", "migrate", "-c", str(workspace.config))
    environment = {
        "AUTHSVC_SECRETS_DIR": str(workspace.secrets),
        # It would end the wait of the killed one, too.
        "AUTHSVC_DATABASE__LOCK_TIMEOUT": "10m",
    }
    await migrate(blank_dsn, _BEGUN)
    async with _holding(blank_dsn, "LOCK TABLE signing_keys") as holder:
        async with _running(command, **environment) as first:
            killed = await _until_one_is(blank_dsn, _WAITING)
            await _kill(first)
        # What the killed one waits for is still locked, and what it has locked is free.
        async with _running(command, **environment) as second:
            await _until_one_is(blank_dsn, _WAITING, but=killed)
            await holder.execute("ROLLBACK")
            output, errors = await second.communicate()
        assert (second.returncode, errors) == (0, b"")
        assert output.count(b"applied now") == shipped_schema().version - _BEGUN.version


@pytest.mark.slow
async def test_index_whose_migrator_was_killed_is_finished_by_the_server(blank_dsn: str) -> None:
    await migrate(blank_dsn, schema_of(_FILES[:1]))
    async with _holding(blank_dsn, "INSERT INTO t VALUES (3)") as holder:
        async with _running(_BUILD, **{_DSN: blank_dsn}) as first:
            building = await _until_one_is(blank_dsn, _BUILDING)
            await _kill(first)
        async with _running(_BUILD, **{_DSN: blank_dsn}) as second:
            await until(partial(_looks_at_progress, blank_dsn))
            assert await _until_one_is(blank_dsn, _BUILDING) == building
            await holder.execute("ROLLBACK")
            assert (await second.communicate(), second.returncode) == ((b"", b""), 0)
    assert await _is_valid(blank_dsn)


async def _looks_at_progress(dsn: str) -> bool:
    """Return whether a migrator has seen the index that is being built."""
    return bool(await run_sql(dsn, _LOOKING))


async def test_index_that_a_killed_migrator_left_invalid_is_built_again(blank_dsn: str) -> None:
    await migrate(blank_dsn, schema_of(_FILES[:1]))
    async with _holding(blank_dsn, "INSERT INTO t VALUES (3)"):
        async with _running(_BUILD, **{_DSN: blank_dsn}) as first:
            building = await _until_one_is(blank_dsn, _BUILDING)
            await _kill(first)
        # The server was killed, too, or stopped.
        await run_sql(blank_dsn, f"SELECT pg_terminate_backend({building}, 30000)")
    assert not await _is_valid(blank_dsn)
    said: list[str] = []
    assert await migrate(blank_dsn, schema_of(_FILES), say=said.append) == [2, 3]
    assert said == ["The index t_n was left unfinished; it is dropped and built again."]
    assert await _is_valid(blank_dsn)


if __name__ == "__main__":
    asyncio.run(migrate(os.environ[_DSN], schema_of(_FILES)))
