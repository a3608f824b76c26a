"""The change of a password: only while the previous one is still the stored one."""

import pytest

from authsvc.models.users import UserStatus
from authsvc.store import password_change, users
from authsvc.store.password_change import Replacement
from authsvc.store.postgres.database import Database
from tests.support.stored import NOW, add_user


@pytest.mark.parametrize("phc", ["old", None])
async def test_password_is_replaced_only_if_it_is_the_expected_one(
    database: Database, phc: str | None
) -> None:
    async with database.connection() as connection:
        ada = await add_user(connection, "ada", phc)
        bob = await add_user(connection, "bob", phc)
        for expected, stored in (("other", False), (phc, True), (phc, False)):
            replacement = Replacement(expected, "new", None)
            assert await password_change.replace(connection, ada, replacement, NOW) is stored
        for user_id, hashed in ((ada, "new"), (bob, phc)):
            credential = await users.get_credential(connection, user_id)
            assert credential is not None
            assert credential.phc == hashed


async def test_password_of_disabled_account_is_not_replaced(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection, phc="old")
        await users.set_status(connection, user_id, UserStatus.DISABLED, NOW)
        replacement = Replacement("old", "new", None)
        assert not await password_change.replace(connection, user_id, replacement, NOW)
