"""Embedded PostgreSQL servers for the tests of the supervisor itself."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from authsvc.dev.locks import lock_supervisor
from authsvc.dev.postgres import EmbeddedPostgres
from tests.support.postgres import state_folder

MakePostgres = Callable[..., EmbeddedPostgres]


@pytest.fixture
def empty_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder on a fast file system."""
    folder = state_folder(tmp_path_factory)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a server that was created, started and stopped."""
    folder = state_folder(tmp_path_factory)
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.stop()
    lock = lock_supervisor(folder / "postgres")
    yield folder
    os.close(lock)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def state_dir(new_state: Path, empty_dir: Path) -> Path:
    """A state folder of this test only, with data in it."""
    subprocess.run(["cp", "-a", f"{new_state}/.", empty_dir], check=True)
    # Without it the copy is not mistaken for that of a killed worker.
    (empty_dir / "postgres" / "supervisor.lock").unlink()
    return empty_dir


@pytest.fixture
def make_postgres(empty_dir: Path) -> Iterator[MakePostgres]:
    """Creates supervisors; stops their servers after the test, before its folder is removed."""
    made: list[EmbeddedPostgres] = []

    def make(folder: Path, *, durable: bool = False) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(folder, durable=durable))
        return made[-1]

    yield make
    for server in made:
        server.stop()
