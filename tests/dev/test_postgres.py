"""The embedded PostgreSQL: private, durable, and restarted after a crash."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from authsvc.dev import postgres as postgres_module
from authsvc.dev.postgres import (
    AlreadyRunningError,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    StartFailedError,
)
from tests.dev.conftest import MakePostgres

pytestmark = pytest.mark.slow

NOBODY = 65534
# The errors of a connection attempt whose server crashes.
_CUT_OFF = asyncpg.PostgresConnectionError


async def query(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def has_another_pid(server: EmbeddedPostgres, old: int) -> bool:
    return server.pid not in (None, old)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- another process sets no event
            await asyncio.sleep(0.01)


async def once_up(dsn: str, statement: str) -> object:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError, _CUT_OFF):
                return await query(dsn, statement)
            await asyncio.sleep(0.01)


async def remember(dsn: str, word: str) -> None:
    await query(dsn, f"CREATE TABLE IF NOT EXISTS words AS SELECT '{word}' AS word")


async def recalled(dsn: str) -> object:
    return await query(dsn, "SELECT word FROM words")


def socket_folder(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


def move(path: Path, folder: Path) -> None:
    folder.mkdir()
    path.rename(folder / path.name)


def owner(path: Path | str) -> int:
    return Path(path).stat().st_uid


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_new_server_answers_and_keeps_its_data(
    empty_dir: Path, make_postgres: MakePostgres
) -> None:
    server = make_postgres(empty_dir / "made" / "on the, way", durable=True)
    server.start()
    await remember(server.dsn(), "kept")
    first = server.pid
    server.stop()
    assert not server.is_running()
    server.start()
    assert server.pid not in (None, first)
    assert await recalled(server.dsn()) == "kept"
    assert await query(server.dsn(), "SHOW fsync") == "on"
    assert await query(server.dsn(), "SHOW data_checksums") == "on"
    assert await query(server.dsn(), "SELECT current_setting('is_superuser')") == "off"


def test_start_and_stop_are_idempotent(state_dir: Path, make_postgres: MakePostgres) -> None:
    server = make_postgres(state_dir)
    server.stop()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert server.pid is None


async def test_only_owner_can_access_server(state_dir: Path, make_postgres: MakePostgres) -> None:
    server = make_postgres(state_dir)
    server.start()
    assert await query(server.dsn(), "SHOW listen_addresses") == ""
    home = state_dir / "postgres"
    assert mode(socket_folder(server.dsn())) == 0o700
    assert mode(socket_folder(server.dsn()) / ".s.PGSQL.5432") == 0o700
    assert mode(home) == mode(home / "data") == 0o700
    assert mode(home / "password") == mode(home / "server.log") == 0o600
    address = urlsplit(server.dsn())
    for intruder in ("authsvc", "postgres", "authsvc:guessed", "postgres:guessed"):
        dsn = address._replace(netloc=f"{intruder}@").geturl()
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await query(dsn, "SELECT 1")


async def test_permissions_of_parent_folders_are_unchanged(
    empty_dir: Path, make_postgres: MakePostgres
) -> None:
    closed = empty_dir / "closed"
    closed.mkdir(mode=0o700)
    server = make_postgres(closed / "state")
    server.start()
    assert await query(server.dsn(), "SELECT 1") == 1
    assert mode(closed) == 0o700
    assert owner(closed) == os.geteuid()
    assert owner(f"/proc/{server.pid}") == (os.geteuid() or NOBODY)


async def test_long_path_gets_short_socket(state_dir: Path, make_postgres: MakePostgres) -> None:
    longer = state_dir / ("long" * 25)
    move(state_dir / "postgres", longer)
    server = make_postgres(longer)
    server.start()
    folder = socket_folder(server.dsn())
    assert longer not in folder.parents
    assert mode(folder) == 0o700
    assert await query(server.dsn(), "SELECT 1") == 1
    server.stop()
    assert not folder.exists()


def test_second_supervisor_is_rejected(state_dir: Path, make_postgres: MakePostgres) -> None:
    first = make_postgres(state_dir)
    first.start()
    with pytest.raises(AlreadyRunningError, match=f"run by process {os.getpid()}$"):
        make_postgres(state_dir).start()
    assert first.is_running()
    first.stop()
    make_postgres(state_dir).start()


async def test_killed_server_recovers_every_row(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    server = make_postgres(state_dir, durable=True)
    server.start()
    await remember(server.dsn(), "kept")
    connected = await asyncpg.connect(server.dsn())
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(server.supervise())
        for _ in range(2):
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await until(partial(has_another_pid, server, killed))
            assert await once_up(server.dsn(), "SELECT word FROM words") == "kept"
        supervisor.cancel()
    assert server.is_running()
    connected.terminate()


async def test_supervision_does_not_restart_stopped_server(
    state_dir: Path, make_postgres: MakePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "_WATCH_INTERVAL", 0)
    server = make_postgres(state_dir)
    server.start()
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(server.supervise())
        await asyncio.sleep(0)
        server.stop()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not server.is_running()
        supervisor.cancel()


async def test_supervision_retries_failed_start(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    server = make_postgres(state_dir)
    server.start()
    control = state_dir / "postgres" / "data" / "global" / "pg_control"
    aside = control.with_name("aside")
    assert server.pid is not None
    control.rename(aside)
    os.kill(server.pid, signal.SIGKILL)
    log = state_dir / "postgres" / "server.log"
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(server.supervise())
        await until(lambda: "could not find the database system" in log.read_text())
        aside.rename(control)
        assert await once_up(server.dsn(), "SELECT 1") == 1
        supervisor.cancel()


def test_server_outlives_thread_that_started_it(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    server = make_postgres(state_dir)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    log = state_dir / "postgres" / "server.log"
    asyncio.run(query(server.dsn(), "SELECT pg_sleep(0.1)"))
    assert server.is_running()
    assert "shutdown request" not in log.read_text().rpartition("starting PostgreSQL")[2]


def test_reused_process_id_does_not_prevent_start(
    state_dir: Path, make_postgres: MakePostgres
) -> None:
    user = NOBODY if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=user) as bystander:
        data = state_dir / "postgres" / "data"
        (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n")
        server = make_postgres(state_dir)
        server.start()
        assert server.is_running()
        assert bystander.poll() is None
        bystander.kill()


def test_leftovers_of_interrupted_start_are_removed(
    empty_dir: Path, make_postgres: MakePostgres
) -> None:
    leftover = empty_dir / "postgres" / "unfinished-1" / "data"
    leftover.mkdir(parents=True)
    server = make_postgres(empty_dir)
    server.start()
    assert server.is_running()
    assert not leftover.parent.exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("PG_VERSION", "14\n", "was created by PostgreSQL 14 and this is"),
        ("postgresql.conf", "nonsense = yes\n", "did not start: .* contains errors"),
    ],
)
def test_start_failure_is_explained_in_one_line(
    state_dir: Path, make_postgres: MakePostgres, file: str, content: str, message: str
) -> None:
    (state_dir / "postgres" / "data" / file).write_text(content)
    server = make_postgres(state_dir)
    for _ in range(2):
        with pytest.raises(StartFailedError, match=message) as raised:
            server.start()
        assert "\n" not in str(raised.value)
        assert not server.is_running()


def test_dsn_is_unavailable_before_first_start(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError):
        EmbeddedPostgres(tmp_path).dsn()
