"""Embedded PostgreSQL servers for the tests of the supervisor itself."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from tests.postgres import state_folder

MakePostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a server that was made, started and stopped."""
    folder = tmp_path_factory.mktemp("new") / "state"
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.stop()
    # Without it a copy is never taken for a killed worker's.
    (folder / "postgres" / "supervisor.lock").unlink()
    return folder


@pytest.fixture
def state_dir(new_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder of this test's own, with data in it."""
    folder = state_folder(tmp_path_factory)
    subprocess.run(["cp", "-a", f"{new_state}/.", folder], check=True)
    yield folder
    shutil.rmtree(folder)


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
