"""A server that tests may break, PgBouncer before it, replicas as processes, and the image."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrator import migrate
from deploy.image.build import build
from tests.support.pgbouncer import PgBouncer
from tests.support.processes import Replica
from tests.world.containers import (
    MOUNTS,
    Bundle,
    Container,
    give_to_group,
    public_folder,
    unpack,
    why_no_namespaces,
)
from tests.world.image import CACHE, SOURCE, alone, copy_lock, write_settings
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


@pytest.fixture(scope="session")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock of Debian's packages; a new one, if its archive no longer has one of them.

    It is in a folder that all workers of this run share, and which one at a time may change.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "image"
    folder.mkdir(exist_ok=True)
    found = folder / "debian.lock"
    with alone(folder):
        if not found.exists():
            copy_lock(found)
    return found


@pytest.fixture(scope="session")
def built(lock: Path) -> Path:
    """The file of the image, built once."""
    folder = lock.parent / "first"
    with alone(lock.parent):
        if not folder.exists():
            build(folder, cache=CACHE, source=SOURCE, lock=lock)
    [archive] = folder.glob("*.oci.tar")
    return archive


@pytest.fixture(scope="session")
def bundle(built: Path) -> Iterator[Bundle]:
    """The image, unpacked."""
    with public_folder() as folder:
        yield unpack(built, folder / "image")


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """What the manifests mount at /etc/authsvc, but the address of the database."""
    with public_folder() as folder:
        write_settings(folder, Workspace(tmp_path / "workspace"))
        yield folder


@pytest.fixture
def run(bundle: Bundle, etc: Path) -> Iterator[Callable[..., Container]]:
    """Starts containers with the settings of the manifests; they end with the test."""
    if reason := why_no_namespaces():
        pytest.skip(f"containers need user namespaces: {reason}")
    started: list[Container] = []

    def start(*command: str, **environment: str) -> Container:
        for name in MOUNTS:
            give_to_group(etc / name)
        started.append(Container(bundle, etc, command, **environment))
        return started[-1]

    yield start
    for container in started:
        container.process.kill()
