"""Users are inserted in bulk in a fixed order, so that parallel imports cannot deadlock."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from authsvc.models.ids import UserId
from authsvc.models.users import UserStatus
from authsvc.store.postgres.database import Database
from authsvc.store.user_transfer import UserRow, insert_new
from tests.support.databases import until

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def row(name: str) -> UserRow:
    return UserRow(
        user_id=UserId(uuid4()),
        email=name,
        email_canonical=name,
        display_name="",
        phc=None,
        pepper_id=None,
        roles=(),
        status=UserStatus.ACTIVE,
        create_time=NOW,
        email_verify_time=None,
    )


async def test_rows_are_inserted_in_address_order(database: Database) -> None:
    async def insert(*names: str) -> set[str]:
        async with database.transaction() as connection:
            return await insert_new(connection, [row(name) for name in names], NOW)

    async def is_waiting() -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with database.connection() as connection:
            return bool(await connection.fetchval(query))

    async with database.transaction() as first:
        assert await insert_new(first, [row("a")], NOW) == {"a"}
        # It has to wait for a before it holds b; otherwise both would deadlock.
        second = asyncio.create_task(insert("c", "b", "a"))
        await until(is_waiting)
        assert await insert_new(first, [row("b")], NOW) == {"b"}
    assert await second == {"c"}
