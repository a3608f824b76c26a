"""Recovery codes: each is used once, by its user."""

from authsvc.store import recovery_codes
from authsvc.store.postgres.database import Database
from tests.support.stored import NOW, add_user


async def test_code_is_claimed_once_by_its_user(database: Database) -> None:
    async with database.connection() as connection:
        ada, bob = await add_user(connection, "ada"), await add_user(connection, "bob")
        await recovery_codes.replace(connection, ada, [b"a1", b"a2"], "k1", NOW)
        await recovery_codes.replace(connection, bob, [b"b1"], "k1", NOW)
        claims = [
            await recovery_codes.claim(connection, user_id, [code])
            for user_id, code in ((ada, b"b1"), (ada, b"x"), (ada, b"a1"), (ada, b"a1"))
        ]
        assert claims == [False, False, True, False]
        assert await recovery_codes.count(connection, ada) == 1
        assert await recovery_codes.count(connection, bob) == 1
        assert await recovery_codes.claim(connection, ada, [b"x", b"a2"])
