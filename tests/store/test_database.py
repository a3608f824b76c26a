"""The pool on a healthy server: what it lends, takes back and refuses."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from authsvc.errors import StoreUnavailable, session_not_found
from authsvc.store import pool as pool_module
from authsvc.store.database import Database
from authsvc.store.pool import Usage
from tests.databases import settings_for

# Only so that a failure ends; nothing is measured by it.
_PATIENCE = 30.0


@pytest.fixture
async def numbers(database: Database) -> Database:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
    return database


async def _count(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM numbers"))


async def _backends(dsn: str) -> list[str]:
    """Return the state of each connection to the database but the one that asks."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    finally:
        await connection.close()
    return [row["state"] for row in rows]


async def _until(condition: Callable[[], Coroutine[None, None, bool]]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _small(dsn: str, **changes: object) -> AsyncIterator[Database]:
    database = await Database.open(settings_for(dsn, **changes))
    try:
        yield database
    finally:
        await database.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


async def test_a_transaction_commits_at_its_end(numbers: Database) -> None:
    async with numbers.transaction() as connection:
        await connection.execute("INSERT INTO numbers VALUES (1)")
        assert await _count(numbers) == 0
    assert await _count(numbers) == 1


async def _insert(database: Database, *values: int, error: Exception | None = None) -> None:
    async with database.transaction() as connection:
        for value in values:
            await connection.execute("INSERT INTO numbers VALUES ($1)", value)
        if error:
            raise error


async def test_an_exception_undoes_a_transaction_and_passes_unchanged(numbers: Database) -> None:
    error = session_not_found()
    with pytest.raises(type(error)) as caught:
        await _insert(numbers, 1, error=error)
    assert caught.value is error
    assert await _count(numbers) == 0


async def test_a_statements_own_fault_is_no_outage(numbers: Database) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await _insert(numbers, 1, 1)
    assert await _count(numbers) == 0


async def test_a_transaction_does_not_pretend_to_commit_after_a_failure(numbers: Database) -> None:
    async def ignore_a_failure() -> None:
        async with numbers.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.execute("SELECT 1 / 0")

    with pytest.raises(RuntimeError):
        await ignore_a_failure()
    assert await _count(numbers) == 0


async def test_a_connection_left_in_a_transaction_is_not_lent_on(database_dsn: str) -> None:
    async with _small(database_dsn, pool_max=1) as database:
        async with database.connection() as connection:
            await connection.execute("BEGIN")
        async with database.connection() as connection:
            assert not connection.is_in_transaction()


async def test_the_loser_of_a_deadlock_may_try_again(numbers: Database) -> None:
    async with numbers.connection() as connection:
        await connection.execute("INSERT INTO numbers VALUES (1), (2)")
    barrier = asyncio.Barrier(2)

    async def take(first: int, second: int) -> None:
        async with numbers.transaction() as connection:
            await connection.execute("UPDATE numbers SET n = n WHERE n = $1", first)
            await barrier.wait()
            await connection.execute("UPDATE numbers SET n = n WHERE n = $1", second)

    results = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    assert [type(result) for result in results if result] == [StoreUnavailable]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:hush-hush@127.0.0.1:{port}/none",
        "postgresql://user:hush-hush@nowhere.invalid:{port}/none",
        "postgresql://user:hush-hush@[::1/none",
        "postgresql://user:hush-hush@127.0.0.1:hush-hush/none",
        "postgresql://user:hush-hush@127.0.0.1/none?sslmode=hush-hush",
    ],
)
async def test_an_address_that_leads_nowhere_is_an_outage_that_tells_no_secret(
    address: str,
) -> None:
    with capture_logs() as logs, pytest.raises(StoreUnavailable) as caught:
        await Database.open(settings_for(address.format(port=_free_port())))
    assert [entry["event"] for entry in logs] == ["database_unreachable"]
    assert "hush-hush" not in f"{logs} {caught.value} {caught.value.__cause__}"


async def test_a_refused_login_is_an_outage_and_logged(database_dsn: str) -> None:
    parts = urlsplit(database_dsn)
    user = parts.netloc.partition(":")[0]
    host = parts.netloc.rpartition("@")[2]
    wrong = parts._replace(netloc=f"{user}:hush-hush@{host}").geturl()
    with capture_logs() as logs, pytest.raises(StoreUnavailable):
        await Database.open(settings_for(wrong))
    assert [entry["error"] for entry in logs] == ["InvalidPasswordError"]
    assert "hush-hush" not in str(logs)


async def test_a_silent_or_refusing_host_gives_way_to_the_next(database_dsn: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (silent.getsockname()[1], _free_port()):
            address = _beside(f"127.0.0.1:{port}", database_dsn)
            async with _small(address, connect_timeout="300ms") as database:
                await database.ping()


async def test_who_finds_the_pool_exhausted_is_told_in_time(database_dsn: str) -> None:
    async with _small(database_dsn, pool_max=1, acquire_timeout="50ms") as database:
        async with database.connection():
            with pytest.raises(StoreUnavailable):
                await database.ping()
        await database.ping()


async def test_those_who_wait_are_served_in_their_order(database_dsn: str) -> None:
    served: list[int] = []
    async with _small(database_dsn, pool_max=1) as database:

        async def borrow(number: int) -> None:
            async with database.connection():
                served.append(number)

        async with asyncio.TaskGroup() as group, database.connection():
            for number in range(5):
                group.create_task(borrow(number))
            await asyncio.sleep(0)
    assert served == [0, 1, 2, 3, 4]


async def test_a_statement_that_takes_too_long_is_an_outage(database_dsn: str) -> None:
    async with _small(database_dsn, pool_max=1, command_timeout="100ms") as database:
        with pytest.raises(StoreUnavailable):
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(3600)")
        await database.ping()
        assert await _backends(database_dsn) == ["idle"]


async def test_a_terminated_connection_is_an_outage_and_replaced(
    database: Database, database_dsn: str
) -> None:
    async def use_a_terminated_one() -> None:
        async with database.connection() as connection:
            other = await asyncpg.connect(database_dsn)
            await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await other.close()
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await use_a_terminated_one()
    await database.ping()


async def test_a_primary_that_became_read_only_is_left_for_the_new_one(numbers: Database) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(numbers.connection())
            await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable):
        await _insert(numbers, 1)
    await _insert(numbers, 1)
    assert await _count(numbers) == 1


async def test_works_without_prepared_statements(database_dsn: str) -> None:
    async with (
        _small(database_dsn, statement_cache_size=0) as database,
        database.transaction() as connection,
    ):
        for number in (1, 2):
            assert await connection.fetchval("SELECT $1::int", number) == number
        assert await connection.fetch("SELECT 1 FROM pg_prepared_statements") == []


async def test_a_cancelled_borrower_leaves_the_connection_fit(numbers: Database) -> None:
    async def write() -> None:
        async with numbers.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (1)")
            started.set()
            await connection.execute("SELECT pg_sleep(3600)")

    started = asyncio.Event()
    task = asyncio.create_task(write())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _count(numbers) == 0


async def test_a_connection_handed_to_a_cancelled_waiter_is_not_lost(database_dsn: str) -> None:
    async with _small(database_dsn, pool_max=1) as database:
        async with database.connection():
            waiter = asyncio.create_task(database.ping())
            await asyncio.sleep(0)
        # The connection is the waiter's now, which has not yet run.
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        async with asyncio.timeout(_PATIENCE):
            await database.ping()


async def test_a_storm_of_cancellations_loses_no_connection(database_dsn: str) -> None:
    chance = random.Random(7)
    async with _small(database_dsn, pool_max=4) as database:

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
            await _until(lambda: _has(database_dsn, ["idle"] * 4))


async def _has(dsn: str, states: list[str]) -> bool:
    return await _backends(dsn) == states


async def test_connections_that_nobody_needs_are_closed(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _small(database_dsn, pool_min=1, pool_max=3) as database:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(database.connection())
        assert len(await _backends(database_dsn)) == 3
        monkeypatch.setattr(pool_module, "_IDLE_LIMIT", 0.0)

        async def only_one_is_left() -> bool:
            await database.ping()
            return len(await _backends(database_dsn)) == 1

        await _until(only_one_is_left)


async def test_a_closed_database_refuses_and_keeps_no_connection(database_dsn: str) -> None:
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
    await _until(lambda: _has(database_dsn, []))


async def test_closing_keeps_no_connection_that_is_just_coming_back(database_dsn: str) -> None:
    database = await Database.open(settings_for(database_dsn, pool_max=1))
    with pytest.raises(type(session_not_found())):
        async with database.connection():
            raise session_not_found()
    await database.close()
    await _until(lambda: _has(database_dsn, []))


async def test_tells_how_the_pool_stands(database_dsn: str) -> None:
    async with _small(database_dsn, pool_max=2) as database:
        assert database.usage() == Usage(connections=1, idle=1, waiting=0)
        async with database.connection(), database.connection():
            waiter = asyncio.create_task(database.ping())
            await asyncio.sleep(0)
            assert database.usage() == Usage(connections=2, idle=0, waiting=1)
        await waiter
        assert database.usage() == Usage(connections=2, idle=2, waiting=0)
