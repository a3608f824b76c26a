"""The change of an address: only while the account is active and has the previous one."""

from authsvc.models.users import UserStatus
from authsvc.store import emails, users
from authsvc.store.postgres.database import Database
from tests.support.stored import NOW, add_user

NEW = "new@example.test"


async def test_address_is_changed_only_if_it_is_the_expected_one(database: Database) -> None:
    async with database.connection() as connection:
        ada, bob = await add_user(connection, "ada"), await add_user(connection, "bob")
        before = await emails.of_user(connection, ada)
        other = await emails.of_user(connection, bob)
        assert before is not None
        assert await emails.change(connection, before, NEW, NEW, NOW)
        assert not await emails.change(connection, before, NEW, NEW, NOW)
        changed = await emails.of_user(connection, ada)
        assert changed is not None
        assert (changed.email, changed.verified) == (NEW, True)
        assert await emails.of_user(connection, bob) == other


async def test_address_of_disabled_account_is_not_changed(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        before = await emails.of_user(connection, user_id)
        assert before is not None
        await users.set_status(connection, user_id, UserStatus.DISABLED, NOW)
        assert not await emails.change(connection, before, NEW, NEW, NOW)


async def test_address_taken_by_somebody_else_since_is_not_changed(database: Database) -> None:
    async with database.connection() as connection:
        before = await emails.of_user(connection, await add_user(connection, "ada"))
        assert before is not None
        assert await emails.change(connection, before, NEW, NEW, NOW)
        bob = await emails.of_user(connection, await add_user(connection, "ada"))
        assert bob is not None
        other = "other@example.test"
        assert not await emails.change(connection, before, other, other, NOW)
        assert await emails.of_user(connection, bob.user_id) == bob
