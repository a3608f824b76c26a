"""The database fixtures: each test gets its own database, and nothing is left behind."""

import os
from pathlib import Path

import asyncpg
import pytest

from authsvc.dev.locks import lock_supervisor
from tests.support import postgres
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow


async def fetch(dsn: str, *statements: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


@pytest.mark.parametrize("time", ["first", "second"])
async def test_blank_database_is_private_to_test(blank_dsn: str, time: str) -> None:
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await fetch(blank_dsn, tables) == 0
    assert await fetch(blank_dsn, "CREATE TABLE mine (id int)", tables) == 1


@pytest.mark.parametrize("time", ["first", "second"])
async def test_migrated_database_is_private_to_test(database_dsn: str, time: str) -> None:
    assert await fetch(database_dsn, "SELECT count(*) FROM schema_version")
    assert await fetch(database_dsn, "CREATE TABLE mine (id int)", "SELECT 1") == 1


async def test_worker_database_is_separate(worker_dsn: str, database_dsn: str) -> None:
    assert await fetch(worker_dsn, "SELECT count(*) FROM schema_version")
    assert worker_dsn != database_dsn


async def test_dropping_database_closes_its_connections(
    postgres_server: PostgresServer,
) -> None:
    name = postgres_server.create(migrated=False)
    connection = await asyncpg.connect(postgres_server.dsn(name))
    postgres_server.drop(name)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    await connection.close()


async def test_external_server_is_left_unchanged(blank_dsn: str) -> None:
    guest = PostgresServer(blank_dsn)
    databases = f"SELECT count(*) FROM pg_database WHERE datname LIKE '{guest.prefix}%'"
    name = guest.create()
    assert await fetch(guest.dsn(name), "SELECT count(*) FROM schema_version")
    assert await fetch(blank_dsn, databases) == 2
    guest.drop(name)
    guest.close()
    assert await fetch(blank_dsn, databases) == 0


def test_leftovers_of_killed_workers_are_removed_from_memory(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_MEMORY", tmp_path)
    monkeypatch.setattr(postgres, "_ROOM", 0)
    folders = {
        name: tmp_path / f"authsvc-test-{name}" for name in ("left", "starting", "running", "new")
    }
    locks = {}
    for name in ("left", "starting", "running"):
        home = folders[name] / "postgres"
        home.mkdir(parents=True)
        locks[name] = lock_supervisor(home)
    folders["new"].mkdir()
    for name in ("left", "running"):
        os.utime(folders[name] / "postgres" / "supervisor.lock", (0, 0))
    for name in ("left", "starting"):
        os.close(locks[name])
    mine = postgres.state_folder(tmp_path_factory)
    os.close(locks["running"])
    assert set(tmp_path.iterdir()) == {*folders.values(), mine} - {folders["left"]}
