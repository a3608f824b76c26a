"""The connections and transactions that a database lends, and how failures are reported."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from authsvc.errors import StoreUnavailable, session_not_found
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.pool import Usage
from tests.support.databases import backends, opened, settings_for, until
from tests.support.proxy import Proxy


@pytest.fixture
async def numbers(database: Database) -> Database:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
    return database


async def _count(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM numbers"))


async def test_transaction_commits_at_end(numbers: Database) -> None:
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


async def test_exception_rolls_back_transaction_and_propagates_unchanged(numbers: Database) -> None:
    error = session_not_found()
    with pytest.raises(type(error)) as caught:
        await _insert(numbers, 1, error=error)
    assert caught.value is error
    assert await _count(numbers) == 0


async def test_statement_error_is_not_an_outage(numbers: Database) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await _insert(numbers, 1, 1)
    assert await _count(numbers) == 0


async def test_foreign_key_violation_is_not_an_outage(
    database: Database,
) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError) as refused:
        async with database.transaction() as connection:
            await connection.execute(
                "INSERT INTO devices (user_id, device_hash, last_use_time)"
                " VALUES (gen_random_uuid(), '', now())"
            )
    assert refused.value.detail is None


async def test_foreign_keys_cascade_from_users_and_sessions(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT confrelid::regclass::text, confdeltype FROM pg_constraint"
            " WHERE contype = 'f'"
        )
    assert {tuple(row) for row in rows} == {("users", b"c"), ("sessions", b"c")}


async def test_failed_transaction_raises_instead_of_committing(numbers: Database) -> None:
    async def ignore_a_failure() -> None:
        async with numbers.transaction() as connection:
            await connection.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.execute("SELECT 1 / 0")

    with pytest.raises(RuntimeError):
        await ignore_a_failure()
    assert await _count(numbers) == 0


async def test_connection_left_in_transaction_is_not_reused(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1) as database:
        async with database.connection() as connection:
            await connection.execute("BEGIN")
        async with database.connection() as connection:
            assert not connection.is_in_transaction()


@pytest.mark.slow
async def test_deadlock_victim_raises_store_unavailable(numbers: Database) -> None:
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


@pytest.mark.slow
async def test_statement_timeout_is_an_outage(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1, command_timeout="1s") as database:
        with pytest.raises(StoreUnavailable):
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(3600)")
        await database.ping()

        async def nothing_runs() -> bool:
            return await backends(database_dsn) == ["idle"]

        await until(nothing_runs)


async def test_terminated_connection_is_an_outage_and_is_replaced(
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


async def _make_read_only(connection: Connection) -> None:
    await connection.execute("SET default_transaction_read_only = on")


async def _write(database: Database) -> None:
    async with database.transaction() as connection:
        # Its setting says nothing of a transaction that has begun.
        await connection.execute("SET LOCAL transaction_read_only = on")
        await connection.execute("INSERT INTO numbers VALUES (1)")


async def _read(database: Database) -> None:
    async with database.connection() as connection:
        await _make_read_only(connection)


@pytest.mark.parametrize("use", [_write, _read])
async def test_read_only_server_is_left_after_read_or_write(
    numbers: Database, database_dsn: str, use: Callable[[Database], Awaitable[None]]
) -> None:
    left: list[str] = []
    numbers.on_leave(lambda: left.append("left"))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(numbers.connection())
    async with numbers.connection() as lent:
        process = lent.get_server_pid()
        with capture_logs() as logs, pytest.raises(StoreUnavailable) as refused:
            await use(numbers)
        assert "read-only" in describe(refused.value)
        assert (left, numbers.usage()) == (["left"], Usage(1, 0, 0))
        # It was lent when the server was left.
        assert await lent.fetchval("SELECT 1") == 1
    assert [entry["event"] for entry in logs].count("database_server_left") == 1
    await _insert(numbers, 2)
    async with numbers.connection() as fresh:
        assert fresh.get_server_pid() != process


async def test_callers_error_on_read_only_server_is_an_outage(database: Database) -> None:
    async def decide_on_what_may_be_stale() -> None:
        async with database.connection() as connection:
            await _make_read_only(connection)
            raise session_not_found()

    with pytest.raises(StoreUnavailable):
        await decide_on_what_may_be_stale()


async def test_read_only_server_is_refused_and_ping_says_why(
    database: Database, database_dsn: str
) -> None:
    name = urlsplit(database_dsn).path.removeprefix("/")
    async with database.connection() as connection:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    # The open connections don't know it yet.
    await database.ping()
    database.leave_server("a test")
    for refused in (database.ping(), Database.open(settings_for(database_dsn))):
        with pytest.raises(StoreUnavailable) as caught:
            await refused
        assert describe(caught.value).startswith("the server is read-only")


async def test_works_without_prepared_statements(database_dsn: str) -> None:
    async with (
        opened(database_dsn, statement_cache_size=0) as database,
        database.transaction() as connection,
    ):
        for number in (1, 2):
            assert await connection.fetchval("SELECT $1::int", number) == number
        assert await connection.fetch("SELECT 1 FROM pg_prepared_statements") == []


async def test_unknown_session_stops_the_naming_of_statements(database_dsn: str) -> None:
    query = "SELECT $1::int"

    async def meet_another_session() -> None:
        async with database.connection() as connection:
            await connection.fetchval(query, 1)
            # What a session of somebody else looks like.
            await connection.execute("DEALLOCATE ALL")
            await connection.fetchval(query, 2)

    async with opened(database_dsn) as database:
        with capture_logs() as logs, pytest.raises(StoreUnavailable):
            await meet_another_session()
        assert "pooler" in str(logs)
        async with database.connection() as connection:
            assert await connection.fetchval(query, 3) == 3
            assert await connection.fetch("SELECT 1 FROM pg_prepared_statements") == []


async def test_statements_behind_pooler_have_no_names(database_dsn: str) -> None:
    async with (
        Proxy(database_dsn, process_id=4711) as proxy,
        opened(proxy.dsn) as database,
        database.connection() as connection,
    ):
        for number in (1, 2):
            assert await connection.fetchval("SELECT $1::int", number) == number
        assert await connection.fetch("SELECT name FROM pg_prepared_statements") == []


async def test_names_of_statements_are_of_one_connection(database_dsn: str) -> None:
    names: set[str] = set()
    async with opened(database_dsn) as database, AsyncExitStack() as stack:
        for _ in range(2):
            connection = await stack.enter_async_context(database.connection())
            found = await connection.fetch("SELECT name FROM pg_prepared_statements")
            assert found
            assert names.isdisjoint(row["name"] for row in found)
            names |= {row["name"] for row in found}


async def test_cancelled_transaction_leaves_connection_usable(numbers: Database) -> None:
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
