"""Databases that tests use as the service does, and servers that tests may break."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from authsvc.config import DatabaseSettings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.database import Connection, Database
from tests.support.postgres import state_folder

# Only so that a failing test ends; nothing is measured by it.
_PATIENCE = 30.0


def settings_for(dsn: str, **changes: object) -> DatabaseSettings:
    """Return the settings of a small pool on `dsn`, with room for hundreds of waiters."""
    patient = {"pool_min": 1, "acquire_timeout": "60s", "command_timeout": "60s"}
    patient["lock_timeout"] = "60s"
    return DatabaseSettings.model_validate({"url": SecretStr(dsn)} | patient | changes)


@pytest_asyncio.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    """An open pool on this test's own database, with all migrations applied."""
    async with opened(database_dsn) as database:
        yield database


@asynccontextmanager
async def opened(dsn: str, **changes: object) -> AsyncIterator[Database]:
    """Open a test's own pool on `dsn`."""
    database = await Database.open(settings_for(dsn, **changes))
    try:
        yield database
    finally:
        await database.close()


def giving_up_locks(dsn: str, after: str) -> str:
    """Return a DSN whose statements soon stop waiting for locks, however slow the machine is."""
    return f"{dsn}{'&' if '?' in dsn else '?'}lock_timeout={after}"


async def backends(dsn: str) -> list[str]:
    """Return the state of each connection to the database except the querying one."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    finally:
        await connection.close()
    return [row["state"] for row in rows]


async def until(condition: Callable[[], Coroutine[None, None, bool]]) -> None:
    """Poll until the condition holds."""
    async with asyncio.timeout(_PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


_WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock')
"""


async def waits_for_a_lock(connection: Connection) -> bool:
    """Return whether a transaction on this database waits for a lock."""
    return bool(await connection.fetchval(_WAITS))


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server for this test only, to be killed or stopped; its database is empty."""
    with running_server(tmp_path_factory) as server:
        yield server


@contextmanager
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a server that a test may kill, freeze or stop; its database is empty."""
    folder = state_folder(tmp_path_factory)
    server = EmbeddedPostgres(folder)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            resume(server)
        server.stop()
        shutil.rmtree(folder)


def freeze(server: EmbeddedPostgres) -> None:
    """Stop every process of the server: connections stay open, and nothing is answered."""
    _signal(server, signal.SIGSTOP)


def resume(server: EmbeddedPostgres) -> None:
    """Resume a frozen server."""
    _signal(server, signal.SIGCONT)


def kill(server: EmbeddedPostgres) -> None:
    """End every process of the server at once, as a crash of its machine does."""
    _signal(server, signal.SIGKILL)
    # Until it has ended, it counts as running, and a start would do nothing.
    while server.is_running():
        time.sleep(0.001)


def _signal(server: EmbeddedPostgres, number: signal.Signals) -> None:
    parent = server.pid
    assert parent is not None
    # Stopped first, so that it neither starts processes nor cleans up meanwhile.
    os.kill(parent, signal.SIGSTOP)
    children = subprocess.run(
        ["pgrep", "-P", str(parent)], check=False, capture_output=True, text=True
    )
    for process in (*map(int, children.stdout.split()), parent):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
