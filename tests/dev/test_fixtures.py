"""The database fixtures: what a test gets and that it has it alone."""

import asyncpg
import pytest

from tests.postgres import PostgresServer


async def _tables(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE made_by_a_test (id int)")
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_tables WHERE tablename = 'made_by_a_test'"
            )
        )
    finally:
        await connection.close()


@pytest.mark.parametrize("time", ["first", "second"])
async def test_a_blank_database_is_a_tests_own(blank_dsn: str, time: str) -> None:
    assert await _tables(blank_dsn) == 1


async def test_dropping_a_database_cuts_off_its_connections(
    postgres_server: PostgresServer,
) -> None:
    name = postgres_server.create(migrated=False)
    connection = await asyncpg.connect(postgres_server.dsn(name))
    postgres_server.drop(name)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")
    await connection.close()
