"""Passkeys: counters only increase, and each challenge is answered once."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from authsvc.models.ids import FactorId, UserId
from authsvc.store import passkeys
from authsvc.store.passkeys import LoginChallenge, NewPasskey, Passkey, RegistrationChallenge
from authsvc.store.postgres.database import Connection, Database
from tests.support.stored import NOW, add_user

MINUTE = timedelta(minutes=1)
EXPIRY = NOW + MINUTE
BEFORE = EXPIRY - timedelta(microseconds=1)


async def _store(
    connection: Connection, user_id: UserId, sign_count: int, *, backup_eligible: bool = False
) -> FactorId:
    factor_id = FactorId(uuid4())
    passkey = Passkey(factor_id, user_id, factor_id.bytes, b"key", (), backup_eligible)
    assert await passkeys.insert(connection, NewPasskey(passkey, "Key", sign_count, NOW))
    return factor_id


@pytest.mark.parametrize(
    ("start", "counts"),
    [
        (5, {5: False, 4: False, 0: False, 6: True, 7: True, 9: True, 8: False}),
        (0, {0: True, 1: True}),
    ],
)
async def test_counter_only_increases_once_in_use(
    database: Database, start: int, counts: dict[int, bool]
) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        first, second = [await _store(connection, user_id, start) for _ in range(2)]
        for factor_id in (first, second):
            for count, expected in counts.items():
                advanced = await passkeys.advance(connection, factor_id, count, NOW)
                assert advanced is expected
            # The last accepted count is used up.
            assert not await passkeys.advance(connection, factor_id, 1, NOW)
        assert not await passkeys.advance(connection, FactorId(uuid4()), 100, NOW)


async def test_counter_not_in_use_stays_at_zero(database: Database) -> None:
    async with database.connection() as connection:
        factor_id = await _store(connection, await add_user(connection), 0)
        for _ in range(3):
            assert await passkeys.advance(connection, factor_id, 0, NOW)


async def test_only_backup_eligible_counter_is_reset(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        bound = await _store(connection, user_id, 5)
        first, second = [
            await _store(connection, user_id, 5, backup_eligible=True) for _ in range(2)
        ]
        assert not await passkeys.reset(connection, bound, 3, NOW)
        assert not await passkeys.reset(connection, FactorId(uuid4()), 3, NOW)
        assert await passkeys.reset(connection, first, 3, NOW)
        counts = "SELECT factor_id, sign_count FROM factors WHERE last_use_time = $1"
        assert [tuple(row) for row in await connection.fetch(counts, NOW)] == [(first, 3)]
        # From the lower count on, it has to increase again.
        assert not await passkeys.advance(connection, first, 3, NOW)
        assert await passkeys.advance(connection, first, 4, NOW)
        assert not await passkeys.advance(connection, second, 4, NOW)


async def test_login_challenge_is_claimed_once_before_it_expires(database: Database) -> None:
    async with database.connection() as connection:
        created = [LoginChallenge(uuid4(), b"challenge", None) for _ in range(2)]
        for challenge in created:
            await passkeys.insert_login(connection, challenge, NOW, EXPIRY)
        assert await passkeys.claim_login(connection, UUID(int=0), NOW) is None
        for challenge in created:
            name = challenge.challenge_id
            assert await passkeys.claim_login(connection, name, EXPIRY) is None
            assert await passkeys.claim_login(connection, name, BEFORE) == challenge
            assert await passkeys.claim_login(connection, name, BEFORE) is None


async def test_registration_challenge_is_claimed_once_by_its_user(database: Database) -> None:
    async with database.connection() as connection:
        ada, bob = await add_user(connection, "ada"), await add_user(connection, "bob")
        created = {ada: uuid4(), bob: uuid4()}
        asked = {
            user_id: RegistrationChallenge(name.bytes, conditional=user_id == bob)
            for user_id, name in created.items()
        }
        for user_id, name in created.items():
            challenge = asked[user_id]
            await passkeys.replace_registration(connection, name, user_id, challenge, NOW, EXPIRY)
        for name, user_id in ((created[ada], bob), (UUID(int=0), ada)):
            assert await passkeys.claim_registration(connection, name, user_id, NOW) is None
        for user_id, name in created.items():
            assert await passkeys.claim_registration(connection, name, user_id, EXPIRY) is None
            claims = [
                await passkeys.claim_registration(connection, name, user_id, BEFORE)
                for _ in range(2)
            ]
            assert claims == [asked[user_id], None]


async def test_challenges_cannot_be_claimed_as_another_kind(database: Database) -> None:
    async with database.connection() as connection:
        ada, login, registration = await add_user(connection), uuid4(), uuid4()
        asked = RegistrationChallenge(b"a", conditional=False)
        await passkeys.replace_registration(connection, registration, ada, asked, NOW, EXPIRY)
        assert await passkeys.claim_login(connection, registration, NOW) is None
        await passkeys.insert_login(connection, LoginChallenge(login, b"b", None), NOW, EXPIRY)
        await connection.execute(
            "UPDATE challenges SET user_id = $1 WHERE challenge_id = $2", ada, login
        )
        assert await passkeys.claim_registration(connection, login, ada, NOW) is None
