"""Replicas behind a real PgBouncer in transaction mode, with the shipped settings."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from authsvc.config import DatabaseSettings
from authsvc.store.postgres.database import Database
from tests.support.pgbouncer import PgBouncer
from tests.world.install import NEW_PGBOUNCER, PGBOUNCER

pytestmark = pytest.mark.world


@pytest_asyncio.fixture(params=[PGBOUNCER, NEW_PGBOUNCER], ids=lambda program: program.name)
async def pooler(request: pytest.FixtureRequest, database_dsn: str) -> AsyncIterator[PgBouncer]:
    # Few sessions of the server for many connections: nearly every statement meets another one.
    async with PgBouncer(request.param, database_dsn, default_pool_size=3) as pooler:
        yield pooler


async def test_statements_never_meet_anothers_parameters(pooler: PgBouncer) -> None:
    settings = DatabaseSettings.model_validate({"url": pooler.dsn})

    async def ask(database: Database, replica: int) -> None:
        for number in range(200):
            async with database.connection() as connection:
                # Each replica numbers its statements alike, but their texts differ.
                mark = f"{replica}:{number % 7}"
                query = f"SELECT '{mark}' || $1::text"
                assert await connection.fetchval(query, f":{number}") == f"{mark}:{number}"

    databases = [await Database.open(settings) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for replica, database in enumerate(databases):
            for _ in range(16):
                group.create_task(ask(database, replica))
    for database in databases:
        await database.close()
