"""The pool on a healthy server: which callers get a connection, and that none is lost."""

import asyncio
import random
import socket
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import StoreUnavailable, session_not_found
from authsvc.store.postgres import pool as pool_module
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.pool import Usage
from tests.support.databases import backends, opened, settings_for, until
from tests.support.ports import port_of

# Only bounds a failing test; nothing is measured by it.
_PATIENCE = 30.0


def _beside(host: str, dsn: str) -> str:
    """Return `dsn` with `host` as the first of two hosts."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    if "host" in query:
        real = f"{quote(query['host'][0], safe='')}:{query['port'][0]}"
    else:
        real = parts.netloc.rpartition("@")[2]
    login = parts.netloc.rpartition("@")[0]
    return f"postgresql://{login}@{host},{real}{parts.path}?target_session_attrs=read-write"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("postgresql://user:hush-hush@127.0.0.1:{port}/none", "refused"),
        ("postgresql://user:hush-hush@nowhere.invalid:{port}/none", "name can't be resolved"),
        ("postgresql://user:hush-hush@/none?host=/nowhere", "socket"),
    ],
)
async def test_unreachable_address_is_an_outage_that_says_why(
    address: str, why: str, unheard: socket.socket
) -> None:
    with capture_logs() as logs, pytest.raises(StoreUnavailable) as caught:
        await Database.open(settings_for(address.format(port=port_of(unheard))))
    assert [entry["event"] for entry in logs] == ["database_unreachable"]
    assert why in logs[0]["detail"] == describe(caught.value)
    assert "hush-hush" not in f"{logs} {caught.value} {caught.value.__cause__}"


async def test_silent_server_is_an_outage_that_says_why(unheard: socket.socket) -> None:
    unheard.listen()
    address = f"postgresql://user@127.0.0.1:{port_of(unheard)}/none?connect_timeout=1"
    with pytest.raises(StoreUnavailable) as caught:
        await Database.open(settings_for(address, connect_timeout="1h"))
    assert describe(caught.value).startswith("no answer in time (127.0.0.1:")
    assert describe(caught.value, host=False) == "no answer in time"


async def test_refusal_of_server_says_why(database_dsn: str, own_server: EmbeddedPostgres) -> None:
    missing = urlsplit(database_dsn)._replace(path="/missing").geturl()
    full = own_server.dsn(user="postgres")
    connection = await asyncpg.connect(full)
    await connection.execute("ALTER ROLE authsvc CONNECTION LIMIT 0")
    for address, why in (
        (missing, 'database "missing" does not exist'),
        (own_server.dsn(), 'too many connections for role "authsvc"'),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await Database.open(settings_for(address))
        assert describe(caught.value, host=False) == why
    await connection.close()


async def test_rejected_login_is_an_outage_and_is_logged(database_dsn: str) -> None:
    parts = urlsplit(database_dsn)
    user = parts.netloc.partition(":")[0]
    host = parts.netloc.rpartition("@")[2]
    wrong = parts._replace(netloc=f"{user}:hush-hush@{host}").geturl()
    with capture_logs() as logs, pytest.raises(StoreUnavailable):
        await Database.open(settings_for(wrong))
    assert [entry["error"] for entry in logs] == ["InvalidPasswordError"]
    assert "password authentication failed" in logs[0]["detail"]
    assert "hush-hush" not in str(logs)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["silent", "refusing"])
async def test_silent_or_refusing_host_falls_back_to_next(
    host: str, database_dsn: str, unheard: socket.socket
) -> None:
    if host == "silent":
        unheard.listen()
    address = _beside(f"127.0.0.1:{port_of(unheard)}", database_dsn)
    # As short as a busy machine allows.
    async with opened(address, connect_timeout="2s") as database:
        await database.ping()


async def test_exhausted_pool_raises_after_acquire_timeout(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1, acquire_timeout="50ms") as database:
        async with database.connection():
            with pytest.raises(StoreUnavailable):
                await database.ping()
        await database.ping()
        counts, seconds = database.waits.read()
    # Two waited for nothing, and one in vain. Timers may fire a little early.
    assert counts[-1][1] == 3
    assert seconds > 0.04


async def test_waiters_are_served_in_order(database_dsn: str) -> None:
    served: list[int] = []
    async with opened(database_dsn, pool_max=1) as database:

        async def borrow(number: int) -> None:
            async with database.connection():
                served.append(number)

        async with asyncio.TaskGroup() as group, database.connection():
            for number in range(5):
                group.create_task(borrow(number))
            await asyncio.sleep(0)
    assert served == [0, 1, 2, 3, 4]


async def test_connection_handed_to_cancelled_waiter_is_not_lost(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1) as database:
        async with database.connection():
            waiter = asyncio.create_task(database.ping())
            await asyncio.sleep(0)
        # The connection now belongs to the waiter, which has not run yet.
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        async with asyncio.timeout(_PATIENCE):
            await database.ping()


@pytest.mark.slow
async def test_mass_cancellation_loses_no_connection(database_dsn: str) -> None:
    chance = random.Random(7)
    async with opened(database_dsn, pool_max=4) as database:

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.fetchval("SELECT pg_sleep($1)", chance.random() / 100)

        tasks = [asyncio.create_task(work()) for _ in range(300)]
        while pending := [task for task in tasks if not task.done()]:
            chance.choice(pending).cancel()
            await asyncio.sleep(chance.random() / 1000)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}

        async with AsyncExitStack() as stack, asyncio.timeout(_PATIENCE):
            for _ in range(4):
                connection = await stack.enter_async_context(database.connection())
                assert await connection.fetchval("SELECT 1") == 1
            await until(lambda: _has(database_dsn, ["idle"] * 4))


async def _has(dsn: str, states: list[str]) -> bool:
    return await backends(dsn) == states


async def test_idle_connections_are_closed(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_dsn, pool_min=1, pool_max=3) as database:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(database.connection())
        assert len(await backends(database_dsn)) == 3
        monkeypatch.setattr(pool_module, "_IDLE_LIMIT", 0.0)

        async def only_one_is_left() -> bool:
            await database.ping()
            return len(await backends(database_dsn)) == 1

        await until(only_one_is_left)


async def test_closed_database_rejects_callers_and_keeps_no_connection(database_dsn: str) -> None:
    database = await Database.open(settings_for(database_dsn, pool_max=1))

    async def close_while_borrowing() -> None:
        async with database.connection() as connection:
            waiter = asyncio.create_task(database.ping())
            await asyncio.sleep(0)
            await database.close()
            with pytest.raises(StoreUnavailable):
                await waiter
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await close_while_borrowing()
    with pytest.raises(StoreUnavailable):
        await database.ping()
    await until(lambda: _has(database_dsn, []))


async def test_close_discards_connection_being_returned(database_dsn: str) -> None:
    database = await Database.open(settings_for(database_dsn, pool_max=1))
    with pytest.raises(type(session_not_found())):
        async with database.connection():
            raise session_not_found()
    await database.close()
    await until(lambda: _has(database_dsn, []))


async def test_usage_reports_pool_state(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=2) as database:
        assert database.usage() == Usage(connections=1, idle=1, waiting=0)
        async with database.connection(), database.connection():
            waiter = asyncio.create_task(database.ping())
            await asyncio.sleep(0)
            assert database.usage() == Usage(connections=2, idle=0, waiting=1)
        await waiter
        assert database.usage() == Usage(connections=2, idle=2, waiting=0)
