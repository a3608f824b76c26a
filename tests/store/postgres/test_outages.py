"""The pool while its server dies, freezes and comes back."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.pool import Usage
from tests.support.databases import freeze, kill, opened, resume, settings_for, until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.slow

# Only bounds a failing test; nothing is measured by it.
_PATIENCE = 30.0


@pytest.fixture
async def database(own_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = await Database.open(
        settings_for(
            own_server.dsn(),
            pool_max=4,
            # Short, yet long enough for a busy machine.
            connect_timeout="2s",
            acquire_timeout="1s",
            command_timeout="1s",
        )
    )
    yield database
    async with asyncio.timeout(_PATIENCE):
        await database.close()


async def _all_busy(database: Database) -> None:
    """Use every connection at once, as soon as that is possible."""

    async def are_busy() -> bool:
        uses = (_sleep(database, 0.01) for _ in range(4))
        return set(await asyncio.gather(*uses, return_exceptions=True)) == {None}

    await until(are_busy)


async def _sleep(database: Database, seconds: float) -> None:
    async with database.connection() as connection:
        await connection.execute(f"SELECT pg_sleep({seconds})")


async def test_pool_recovers_after_server_is_killed(
    own_server: EmbeddedPostgres, database: Database
) -> None:
    await _all_busy(database)
    async with database.connection() as connection:
        in_flight = asyncio.create_task(_sleep(database, 3600))
        await connection.execute("SELECT pg_sleep(0.05)")
        kill(own_server)
        async with asyncio.timeout(_PATIENCE):
            with pytest.raises(StoreUnavailable):
                await in_flight
            with pytest.raises(StoreUnavailable):
                await database.ping()
    await asyncio.to_thread(own_server.start)
    await _heals(database)
    await _all_busy(database)


async def test_pool_recovers_after_server_is_frozen(
    own_server: EmbeddedPostgres, database: Database
) -> None:
    await _all_busy(database)
    freeze(own_server)
    async with asyncio.timeout(_PATIENCE):
        # More calls than there are connections, until each of those has been discarded.
        for _ in range(3):
            results = await asyncio.gather(
                *(database.ping() for _ in range(20)), return_exceptions=True
            )
            assert {type(result) for result in results} == {StoreUnavailable}
    resume(own_server)
    await _heals(database)
    await _all_busy(database)


async def test_frozen_server_does_not_block_cancelled_tasks(
    own_server: EmbeddedPostgres, database: Database
) -> None:
    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT 1")
            freeze(own_server)
            frozen.set()
            await connection.execute("SELECT 1")

    frozen = asyncio.Event()
    task = asyncio.create_task(write())
    await frozen.wait()
    task.cancel()
    async with asyncio.timeout(_PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(StoreUnavailable):
            await database.ping()
    resume(own_server)
    await _heals(database)


async def test_connection_that_does_not_recover_is_discarded(
    own_server: EmbeddedPostgres,
) -> None:
    database = await Database.open(settings_for(own_server.dsn(), command_timeout="1h"))
    task = asyncio.create_task(_sleep(database, 3600))
    async with asyncio.timeout(_PATIENCE):
        await asyncio.sleep(0)
        freeze(own_server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while database.usage().connections:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
    await database.close()


async def test_frozen_server_does_not_block_close(own_server: EmbeddedPostgres) -> None:
    database = await Database.open(settings_for(own_server.dsn(), pool_min=2, command_timeout="1h"))
    freeze(own_server)
    task = asyncio.create_task(database.ping())
    await asyncio.sleep(0)
    async with asyncio.timeout(_PATIENCE):
        await database.close()
        with pytest.raises(StoreUnavailable):
            await task


async def test_callers_waiting_for_dead_server_fail_immediately(
    own_server: EmbeddedPostgres,
) -> None:
    database = await Database.open(settings_for(own_server.dsn(), acquire_timeout="1h"))
    await asyncio.to_thread(own_server.stop)
    async with asyncio.timeout(_PATIENCE):
        results = await asyncio.gather(
            *(database.ping() for _ in range(100)), return_exceptions=True
        )
    assert {type(result) for result in results} == {StoreUnavailable}
    await database.close()


async def test_outage_and_recovery_are_each_logged_once(
    own_server: EmbeddedPostgres, database: Database
) -> None:
    kill(own_server)
    with capture_logs() as logs:
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await database.ping()
        await asyncio.to_thread(own_server.start)
        await _heals(database)
    events = [entry["event"] for entry in logs]
    assert [event for event in events if event.endswith("reachable")] == [
        "database_unreachable",
        "database_reachable",
    ]


async def test_connections_to_replaced_server_are_left(
    own_server: EmbeddedPostgres, database_dsn: str
) -> None:
    """The old server stays up and writable: what the address leads to says which one counts."""
    left: list[str] = []
    login = urlsplit(database_dsn).netloc.rpartition("@")[0]
    name, _, password = login.partition(":")
    owner = await asyncpg.connect(own_server.dsn(user="postgres"))
    await owner.execute(f"ALTER ROLE {name} PASSWORD '{password}'")
    await owner.execute(f"CREATE DATABASE {urlsplit(database_dsn).path[1:]}")
    await owner.close()
    async with Proxy(database_dsn) as proxy, opened(proxy.dsn, pool_max=2) as database:
        database.on_leave(lambda: left.append("left"))
        async with database.connection() as old:
            proxy.redirect(own_server.dsn())
            async with database.connection() as new:
                assert new.get_server_version() == old.get_server_version()
            assert left == ["left"]
            assert database.usage() == Usage(connections=2, idle=1, waiting=0)
        # The old one was lent then, and is not used again.
        assert database.usage() == Usage(connections=1, idle=1, waiting=0)


async def _heals(database: Database) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                return await database.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
