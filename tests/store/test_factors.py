"""Authenticator apps: confirmed once by their user, and each time step accepted once."""

from datetime import timedelta
from uuid import uuid4

from authsvc.models.ids import FactorId, UserId
from authsvc.store import factors
from authsvc.store.factors import Seed
from authsvc.store.postgres.database import Connection, Database
from tests.support.stored import NOW, add_user

SECOND = timedelta(seconds=1)


async def _enroll(connection: Connection, user_id: UserId) -> FactorId:
    factor_id = FactorId(uuid4())
    await factors.replace_unconfirmed(connection, user_id, Seed(factor_id, b"sealed"), "App", NOW)
    return factor_id


async def test_app_is_confirmed_once_by_its_user(database: Database) -> None:
    async with database.connection() as connection:
        ada, bob = await add_user(connection, "ada"), await add_user(connection, "bob")
        app, other = await _enroll(connection, ada), await _enroll(connection, bob)
        for factor_id, user_id in ((app, bob), (FactorId(uuid4()), ada)):
            assert not await factors.confirm(connection, factor_id, user_id, NOW, 10)
        assert await factors.confirm(connection, app, ada, NOW, 10)
        assert not await factors.confirm(connection, app, ada, NOW, 20)
        assert await factors.count(connection, ada) == 1
        assert await factors.count(connection, bob) == 0
        assert await factors.confirm(connection, other, bob, NOW, 10)


async def test_each_step_is_claimed_once_and_none_before_it(database: Database) -> None:
    async with database.connection() as connection:
        ada, bob = await add_user(connection, "ada"), await add_user(connection, "bob")
        for user_id in (ada, bob):
            app = await _enroll(connection, user_id)
            assert await factors.confirm(connection, app, user_id, NOW, 10)
            steps = [9, 10, 15, 15, 14, 16, 16]
            claims = [await factors.claim_step(connection, app, step, NOW) for step in steps]
            assert claims == [False, False, True, False, False, True, False]
        assert not await factors.claim_step(connection, FactorId(uuid4()), 20, NOW)


async def test_step_of_app_without_known_step_is_claimed_once(database: Database) -> None:
    async with database.connection() as connection:
        app = await _enroll(connection, await add_user(connection))
        claims = [await factors.claim_step(connection, app, 10, NOW + SECOND) for _ in range(2)]
        assert claims == [True, False]
