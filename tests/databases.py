"""The database that a test talks to as the service does, and servers that a test may hurt."""

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from authsvc.config import DatabaseSettings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.database import Database


def settings_for(dsn: str, **changes: object) -> DatabaseSettings:
    """Return the settings of a small pool on `dsn`."""
    return DatabaseSettings.model_validate({"url": SecretStr(dsn), "pool_min": 1} | changes)


@pytest_asyncio.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    """An open pool on this test's own database, with all migrations applied."""
    opened = await Database.open(settings_for(database_dsn))
    yield opened
    await opened.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A running server of this test's own, to be killed or stopped; its database is empty."""
    server = EmbeddedPostgres(tmp_path)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            resume(server)
        server.stop()


def freeze(server: EmbeddedPostgres) -> None:
    """Stop every process of the server: it keeps its connections and answers nothing."""
    _signal(server, signal.SIGSTOP)


def resume(server: EmbeddedPostgres) -> None:
    """Let a frozen server go on."""
    _signal(server, signal.SIGCONT)


def kill(server: EmbeddedPostgres) -> None:
    """End every process of the server at once, as a crash of its machine does."""
    _signal(server, signal.SIGKILL)


def _signal(server: EmbeddedPostgres, number: signal.Signals) -> None:
    parent = server.pid
    assert parent is not None
    # Stopped first, so that it neither starts processes nor tidies up meanwhile.
    os.kill(parent, signal.SIGSTOP)
    children = subprocess.run(
        ["pgrep", "-P", str(parent)], check=False, capture_output=True, text=True
    )
    for process in (*map(int, children.stdout.split()), parent):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
