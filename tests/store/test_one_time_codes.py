"""Storing one-time codes: with a user, without one, and while the user is being deleted."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import one_time_codes, users
from authsvc.store.one_time_codes import CodeRow
from authsvc.store.postgres.database import Database
from tests.support.databases import until, waits_for_a_lock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)
EMAIL = "ada@example.test"


def _code(user_id: UserId | None) -> CodeRow:
    return CodeRow(uuid4(), "login", EMAIL, user_id, b"mac", NOW, LATER)


async def _store(database: Database, row: CodeRow) -> bool:
    async with database.transaction() as connection:
        return await one_time_codes.replace(connection, row)


async def _count(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM one_time_codes"))


async def test_code_is_stored_with_and_without_user(database: Database) -> None:
    user = User(UserId(uuid7(NOW)), EMAIL, "", ("user",), UserStatus.ACTIVE, NOW)
    async with database.connection() as connection:
        assert await users.insert(
            connection, user, email_canonical=EMAIL, origin=UserOrigin.REGISTER
        )
    for user_id in (user.user_id, None):
        for _ in range(2):
            assert await _store(database, _code(user_id))
    assert await _count(database) == 2


async def test_code_of_concurrently_deleted_user_is_not_stored(database: Database) -> None:
    user = User(UserId(uuid7(NOW)), EMAIL, "", ("user",), UserStatus.ACTIVE, NOW)
    async with database.connection() as connection:
        assert await users.insert(
            connection, user, email_canonical=EMAIL, origin=UserOrigin.REGISTER
        )

    async def waits() -> bool:
        async with database.connection() as looking:
            return await waits_for_a_lock(looking)

    async with database.transaction() as deleting:
        await deleting.execute("DELETE FROM users")
        storing = asyncio.create_task(_store(database, _code(user.user_id)))
        await until(waits)
    assert not await storing
    assert await _count(database) == 0
