"""Challenges for a second factor: attempts are counted in advance, and each is used up once."""

from datetime import timedelta
from uuid import UUID, uuid4

from authsvc.models.ids import UserId
from authsvc.store import challenges
from authsvc.store.challenges import Challenge
from authsvc.store.postgres.database import Connection, Database
from tests.support.stored import NOW, add_user

MINUTE = timedelta(minutes=1)
LIMIT = 3


async def _create(connection: Connection, user_id: UserId, token_hash: bytes) -> Challenge:
    challenge = Challenge(uuid4(), user_id, ("pwd",), passkey=b"challenge")
    await challenges.create(connection, challenge, token_hash, NOW, NOW + MINUTE)
    return challenge


async def test_attempts_are_claimed_up_to_limit_for_each_challenge(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        created = {token: await _create(connection, user_id, token) for token in (b"a", b"b")}
        for token, challenge in created.items():
            claims = [
                await challenges.claim_attempt(connection, token, NOW, LIMIT)
                for _ in range(LIMIT + 2)
            ]
            assert claims == [challenge] * LIMIT + [None] * 2


async def test_unknown_or_expired_challenge_cannot_be_claimed(database: Database) -> None:
    async with database.connection() as connection:
        challenge = await _create(connection, await add_user(connection), b"a")
        expiry = NOW + MINUTE
        assert await challenges.claim_attempt(connection, b"unknown", NOW, LIMIT) is None
        assert await challenges.claim_attempt(connection, b"a", expiry, LIMIT) is None
        before = expiry - timedelta(microseconds=1)
        assert await challenges.claim_attempt(connection, b"a", before, LIMIT) == challenge


async def test_challenge_of_another_kind_cannot_be_claimed(database: Database) -> None:
    async with database.connection() as connection:
        await _create(connection, await add_user(connection), b"a")
        await connection.execute("UPDATE challenges SET kind = 'passkey_registration'")
        assert await challenges.claim_attempt(connection, b"a", NOW, LIMIT) is None


async def test_passkey_challenge_is_taken_once(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        for token in (b"a", b"b"):
            challenge = await _create(connection, user_id, token)
            assert not await challenges.take_passkey(connection, UUID(int=0))
            assert await challenges.take_passkey(connection, challenge.challenge_id)
            assert not await challenges.take_passkey(connection, challenge.challenge_id)


async def test_challenge_is_finished_once(database: Database) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
        created = [await _create(connection, user_id, token) for token in (b"a", b"b")]
        assert not await challenges.finish(connection, UUID(int=0))
        for challenge in created:
            assert await challenges.finish(connection, challenge.challenge_id)
            assert not await challenges.finish(connection, challenge.challenge_id)
