"""A server that tests may break, PgBouncer before it, and replicas as processes."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrator import migrate
from tests.support.pgbouncer import PgBouncer
from tests.support.processes import Replica
from tests.world.install import NEW_PGBOUNCER, PGBOUNCER


@pytest_asyncio.fixture
async def server(own_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """A server for this test only, with all migrations."""
    await migrate(own_server.dsn())
    return own_server


@pytest_asyncio.fixture(params=[PGBOUNCER, NEW_PGBOUNCER], ids=lambda program: program.name)
async def pooler(
    request: pytest.FixtureRequest, server: EmbeddedPostgres
) -> AsyncIterator[PgBouncer]:
    """PgBouncer of each version, before this test's own server."""
    # Few sessions of the server for many connections: nearly every statement meets another one.
    async with PgBouncer(request.param, server.dsn(), default_pool_size=4) as pooler:
        yield pooler


@pytest.fixture
def start_replica(tmp_path: Path) -> Iterator[Callable[[str], Replica]]:
    """Starts replicas on a database, with the shipped settings; they end with the test."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.prepare()
    started: list[Replica] = []

    def start(database_url: str) -> Replica:
        started.append(Replica(workspace, database_url))
        return started[-1]

    yield start
    for replica in started:
        replica.process.kill()
