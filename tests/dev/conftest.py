"""Embedded PostgreSQL servers for the tests of the supervisor itself."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from authsvc.dev.postgres import EmbeddedPostgres

MakePostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a server that was made, started and stopped."""
    folder = tmp_path_factory.mktemp("new") / "state"
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.stop()
    return folder


@pytest.fixture
def state_dir(new_state: Path, tmp_path: Path) -> Path:
    """A state folder of this test's own, with data in it."""
    folder = tmp_path / "state"
    subprocess.run(["cp", "-a", new_state, folder], check=True)
    return folder


@pytest.fixture
def make_postgres() -> Iterator[MakePostgres]:
    """Makes supervisors whose servers are stopped after the test."""
    made: list[EmbeddedPostgres] = []

    def make(folder: Path, *, durable: bool = False) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(folder, durable=durable))
        return made[-1]

    yield make
    for server in made:
        server.stop()
