"""The limits on guessing while PostgreSQL is killed in the middle of an attack."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from authsvc.config import PolicySettings, Settings
from authsvc.dev.postgres import EmbeddedPostgres, find_binaries
from authsvc.store.postgres.migrator import migrate
from authsvc.v1.auth_service_pb2 import LoginRequest
from tests.support.accounts import EMAIL
from tests.support.databases import kill, settings_for, until
from tests.support.postgres import state_folder
from tests.support.probe import outcome, with_changes
from tests.support.service import Service, StartService

_ALLOWANCE = 8
_FLUSHED = "SELECT pg_current_wal_flush_lsn() >= $1"
_REPLICATED = "SELECT flush_lsn >= $1 FROM pg_stat_get_wal_senders()"


async def _guess(service: Service) -> str:
    """Try a wrong password; return the reason of the answer."""
    request = LoginRequest(email=EMAIL, password="A wrong guess, 1")
    return await outcome(service.auth().Login(request))


async def _guesses(service: Service, count: int) -> int:
    """Try so many passwords at once; return how many were evaluated."""
    answers = await asyncio.gather(*(_guess(service) for _ in range(count)))
    assert set(answers) <= {"CREDENTIALS_INVALID", "TOO_MANY_ATTEMPTS"}
    return answers.count("CREDENTIALS_INVALID")


async def _survives(dsn: str, question: str) -> None:
    """Wait until what was committed so far would survive, by the answer to the question."""
    connection = await asyncpg.connect(dsn)
    try:
        end = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")

        async def does() -> bool:
            return bool(await connection.fetchval(question, end))

        await until(does)
    finally:
        await connection.close()


async def _attacked(start_service: StartService, settings: Settings, dsn: str) -> Service:
    """Return a service on this database that allows few guesses."""
    policy = PolicySettings.model_validate({"requests": _ALLOWANCE, "window": "1h"})
    settings = with_changes(settings, "brute_force", per_account=policy)
    database = settings_for(dsn, pool_min=2)
    return await start_service(settings.model_copy(update={"database": database}))


async def _guesses_until_killed(service: Service, server: EmbeddedPostgres) -> int:
    """Kill the server in the middle of guesses; return how many were evaluated."""
    evaluated = await _guesses(service, 2)
    attack = [asyncio.create_task(_guess(service)) for _ in range(4)]
    await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
    kill(server)
    return evaluated + [await task for task in attack].count("CREDENTIALS_INVALID")


async def _guesses_left(service: Service) -> int:
    """Guess until the account is locked; return how many guesses were evaluated."""
    first = "STORE_UNAVAILABLE"

    async def answers() -> bool:
        nonlocal first
        first = await _guess(service)
        return first != "STORE_UNAVAILABLE"

    await until(answers)
    evaluated = (first == "CREDENTIALS_INVALID") + await _guesses(service, 2 * _ALLOWANCE)
    assert await _guess(service) == "TOO_MANY_ATTEMPTS"
    return evaluated


async def test_crash_of_the_database_gives_no_new_guesses(
    own_server: EmbeddedPostgres, start_service: StartService, settings: Settings
) -> None:
    await migrate(own_server.dsn())
    service = await _attacked(start_service, settings, own_server.dsn())
    await service.register()
    assert await _guesses(service, _ALLOWANCE // 2) == _ALLOWANCE // 2
    await _survives(own_server.dsn(), _FLUSHED)
    # What is charged from here on may be lost.
    at_risk = await _guesses_until_killed(service, own_server)
    await asyncio.to_thread(own_server.start)
    after = await _guesses_left(service)
    assert _ALLOWANCE // 2 + at_risk + after <= _ALLOWANCE + at_risk


@pytest.fixture
def standby(
    own_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPostgres]:
    """A running asynchronous standby of `own_server`."""
    folder = state_folder(tmp_path_factory)
    primary = urlsplit(own_server.dsn(user="postgres"))
    sockets = Path(parse_qs(primary.query)["host"][0])
    home, data = sockets.parent, folder / "postgres" / "data"
    if os.geteuid() == 0:
        # The standby runs as another user, who has to reach the primary's socket.
        for parent in (home, home.parent):
            parent.chmod(0o711)
    data.parent.mkdir()
    shutil.copy(home / "password", data.parent)
    source = primary._replace(path="/").geturl()
    command = [str(find_binaries() / "pg_basebackup"), "-d", source, "-D", str(data), "-R"]
    subprocess.run([*command, "-c", "fast"], check=True, capture_output=True)
    owner = (home / "data").stat()
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.world
async def test_failover_to_a_standby_gives_no_new_guesses(
    own_server: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    start_service: StartService,
    settings: Settings,
) -> None:
    await migrate(own_server.dsn())
    service = await _attacked(start_service, settings, own_server.dsn())
    await service.register()
    assert await _guesses(service, _ALLOWANCE // 2) == _ALLOWANCE // 2
    await _survives(own_server.dsn(user="postgres"), _REPLICATED)
    # What is charged from here on may not have reached the standby.
    at_risk = await _guesses_until_killed(service, own_server)
    connection = await asyncpg.connect(standby.dsn(user="postgres"))
    await connection.execute("SELECT pg_promote()")
    await connection.close()
    replica = await _attacked(start_service, settings, standby.dsn())
    after = await _guesses_left(replica)
    assert _ALLOWANCE // 2 + at_risk + after <= _ALLOWANCE + at_risk
