"""One-time codes: stored only for users that exist, tried a few times, and used once."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import one_time_codes, users
from authsvc.store.one_time_codes import CodeClaim, CodeRow, TryLimits
from authsvc.store.postgres.database import Connection, Database
from tests.support.databases import until, waits_for_a_lock
from tests.support.stored import add_user, updates

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 2, tzinfo=UTC)
EMAIL = "ada@example.test"
MAC, WRONG = b"mac", b"other"
LIMIT = 3
NETWORK, ELSEWHERE = "a", "b"


def _code(user_id: UserId | None) -> CodeRow:
    return CodeRow(uuid4(), "verify_email", EMAIL, user_id, MAC, NOW, LATER)


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


def _claim_of(code: CodeRow, mac: bytes = MAC) -> CodeClaim:
    return CodeClaim(
        code.purpose, code.email_canonical, code.user_id, code.code_id, [mac], True, NETWORK
    )


async def _claim(
    connection: Connection, claim: CodeClaim, now: datetime = NOW, limit: int = LIMIT
) -> bool:
    return await one_time_codes.claim(connection, claim, now, TryLimits(LIMIT, limit))


async def _attempts(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT sum(attempts) FROM one_time_codes"))


async def test_correct_code_is_used_once(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
        claim = _claim_of(code)
        assert not await _claim(connection, _claim_of(code, WRONG))
        assert await _claim(connection, replace(claim, code_id=None, macs=[WRONG, MAC]))
        assert not await _claim(connection, claim)
        # A new code can be used again.
        await one_time_codes.replace(connection, code)
        assert await _claim(connection, claim)


async def test_code_is_tried_up_to_limit(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        for wrong in (LIMIT, LIMIT - 1):
            await one_time_codes.replace(connection, code)
            for _ in range(wrong):
                assert not await _claim(connection, _claim_of(code, WRONG))
            assert await _claim(connection, _claim_of(code)) is (wrong < LIMIT)
            assert await _attempts(connection) == LIMIT


async def test_claim_that_names_another_code_is_not_counted(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
        claim = _claim_of(code)
        for other in (
            replace(claim, email_canonical="bob@example.test"),
            replace(claim, purpose="reset_password"),
            replace(claim, user_id=await add_user(connection, "bob")),
            replace(claim, user_id=None),
            replace(claim, code_id=uuid4()),
        ):
            assert not await _claim(connection, other)
        assert not await _claim(connection, claim, LATER)
        assert await _attempts(connection) == 0
        assert await _claim(connection, claim, LATER - timedelta(microseconds=1))


async def test_claim_that_may_not_match_is_counted_but_fails(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
        assert not await _claim(connection, replace(_claim_of(code), may_match=False))
        assert await _attempts(connection) == 1
        assert await _claim(connection, _claim_of(code))


async def test_attempts_at_code_without_user_are_counted(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(None)
        await one_time_codes.replace(connection, code)
        for _ in range(LIMIT + 1):
            assert not await _claim(connection, _claim_of(code, WRONG))
        assert await _attempts(connection) == LIMIT


async def test_tries_of_one_network_leave_those_of_others(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
        for network in (NETWORK, ELSEWHERE):
            wrong = replace(_claim_of(code, WRONG), network=network)
            for _ in range(LIMIT + 1):
                assert not await _claim(connection, wrong, limit=2 * LIMIT)
            right = replace(_claim_of(code), network=network)
            assert not await _claim(connection, right, limit=2 * LIMIT)
        assert await _attempts(connection) == 2 * LIMIT
        # Those in all are used up as well.
        assert not await _claim(connection, replace(_claim_of(code), network="c"), limit=2 * LIMIT)
        # One more in all, and whoever has not tried yet may. A new code starts anew for everybody.
        assert await _claim(connection, replace(_claim_of(code), network="c"), limit=2 * LIMIT + 1)
        await one_time_codes.replace(connection, code)
        assert await _claim(connection, _claim_of(code))


async def test_without_limits_no_number_of_tries_uses_code_up(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
        for _ in range(10 * LIMIT):
            wrong = _claim_of(code, WRONG)
            assert not await one_time_codes.claim(connection, wrong, NOW, None)
        # What is not limited need not be kept.
        kept = await connection.fetchval("SELECT network_attempts::text FROM one_time_codes")
        assert kept == "{}"
        assert await one_time_codes.claim(connection, _claim_of(code), NOW, None)


# What there is in place of a code that can be tried, as a change of the code's claim or row.
ABSENT = {
    "nothing": "DELETE FROM one_time_codes",
    "used": "UPDATE one_time_codes SET use_time = create_time",
    "expired": "UPDATE one_time_codes SET expire_time = create_time",
    "tried too often": "UPDATE one_time_codes SET attempts = 99",
    "tried too often from here": "UPDATE one_time_codes SET network_attempts = '{\"a\": 99}'",
    "wrong": "SELECT",
}


@pytest.mark.parametrize("state", ABSENT)
@pytest.mark.parametrize("exists", [True, False])
async def test_try_writes_the_same_whether_or_not_there_is_a_code(
    database: Database, state: str, exists: bool
) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection) if exists else None)
        await one_time_codes.replace(connection, code)
        await connection.execute(ABSENT[state])
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL synchronous_commit = on")
        before = await updates(connection)
        assert not await _claim(connection, _claim_of(code, WRONG))
        assert await updates(connection) == before + 1
        assert await connection.fetchval("SHOW synchronous_commit") == "off"


async def test_use_of_code_is_flushed(database: Database) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL synchronous_commit = on")
        assert await _claim(connection, _claim_of(code))
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize("code_exists", [True, False])
async def test_only_user_with_code_to_try_is_locked(database: Database, code_exists: bool) -> None:
    async with database.transaction() as connection, database.connection() as other:
        # The first that is found would be the wrong one.
        await add_user(other, "bob")
        ada = await add_user(other, "ada")
        code = _code(ada)
        await one_time_codes.replace(other, code)
        claim = _claim_of(code) if code_exists else replace(_claim_of(code), code_id=uuid4())
        assert await _claim(connection, claim) is code_exists
        free = await other.fetch("SELECT user_id FROM users FOR NO KEY UPDATE SKIP LOCKED")
        assert (ada not in {row["user_id"] for row in free}) is code_exists
        assert len(free) == (1 if code_exists else 2)


@pytest.mark.parametrize("mac", [MAC, WRONG])
async def test_claim_in_progress_makes_concurrent_one_wait_and_fail(
    database: Database, mac: bytes
) -> None:
    async with database.connection() as connection:
        code = _code(await add_user(connection))
        await one_time_codes.replace(connection, code)

    async def claim() -> bool:
        async with database.connection() as connection:
            return await _claim(connection, _claim_of(code), limit=limit)

    async def waits() -> bool:
        async with database.connection() as connection:
            return await waits_for_a_lock(connection)

    # Either the code is used up, or the attempts at it are.
    limit = 2 if mac == MAC else 1
    async with database.transaction() as first:
        assert await _claim(first, _claim_of(code, mac), limit=limit) is (mac == MAC)
        second = asyncio.create_task(claim())
        await until(waits)
    assert not await second
