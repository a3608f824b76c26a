"""The rows of signing keys: concurrent attempts claim each transition only once."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store import signing_keys as store
from authsvc.store.postgres.database import Database
from authsvc.store.signing_keys import SigningKeyRow
from tests.support.clock import FakeClock

HOUR = timedelta(hours=1)


def row(clock: FakeClock, key_id: str, state: KeyState, algorithm: str = "ES256") -> SigningKeyRow:
    now = clock.now()
    active = state is KeyState.ACTIVE
    info = SigningKeyInfo(key_id, algorithm, state, now, activate_time=now if active else None)
    return SigningKeyRow(info, key_id.encode())


async def insert(database: Database, *rows: SigningKeyRow) -> list[bool]:
    async with database.connection() as conn:
        return [await store.insert(conn, each) for each in rows]


async def states(database: Database) -> dict[str, KeyState]:
    async with database.connection() as conn:
        return {each.info.key_id: each.info.state for each in await store.list_all(conn)}


async def test_stored_key_is_read_back_unchanged(database: Database, clock: FakeClock) -> None:
    active, prepared = row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED)
    prepared = replace(prepared, info=replace(prepared.info, create_time=clock.now() + HOUR))
    assert await insert(database, active, prepared) == [True, True]
    async with database.connection() as conn:
        assert await store.list_all(conn) == [prepared, active]


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.PREPARED])
async def test_each_state_holds_at_most_one_key(
    database: Database, clock: FakeClock, state: KeyState
) -> None:
    assert await insert(database, row(clock, "a", state), row(clock, "b", state)) == [True, False]
    assert await states(database) == {"a": state}


async def test_key_is_retired_once(database: Database, clock: FakeClock) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE))
    now = clock.now()
    async with database.connection() as conn:
        assert await store.retire(conn, "a", now, now + HOUR)
        assert not await store.retire(conn, "a", now, now + 2 * HOUR)
        assert not await store.retire(conn, "unknown", now, now + HOUR)
        (stored,) = await store.list_all(conn)
    assert stored.info.state is KeyState.RETIRED
    assert stored.info.retire_time == now
    assert stored.info.expire_time == now + HOUR


async def test_rotation_in_progress_blocks_others_which_then_fail(
    database: Database, clock: FakeClock
) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE))
    now = clock.now()

    async def retire() -> bool:
        async with database.transaction() as conn:
            return await store.retire(conn, "a", now, now + HOUR)

    async def create() -> bool:
        async with database.transaction() as conn:
            return await store.insert(conn, row(clock, "c", KeyState.ACTIVE))

    async with database.transaction() as conn:
        assert await store.retire(conn, "a", now, now + HOUR)
        others = [asyncio.create_task(retire()), asyncio.create_task(create())]
        async with database.connection() as other:
            await _until_two_wait(other)
        assert await store.insert(conn, row(clock, "b", KeyState.ACTIVE))
    assert await asyncio.gather(*others) == [False, False]
    assert await states(database) == {"a": KeyState.RETIRED, "b": KeyState.ACTIVE}


async def _until_two_wait(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """
    async with asyncio.timeout(30):
        while await conn.fetchval(waiting) < 2:  # noqa: ASYNC110 - only polling can tell
            await asyncio.sleep(0.01)


async def test_prepared_key_is_activated_only_for_its_algorithm(
    database: Database, clock: FakeClock
) -> None:
    await insert(database, row(clock, "p", KeyState.PREPARED, "EdDSA"))
    now = clock.now() + HOUR
    async with database.connection() as conn:
        assert await store.activate_prepared(conn, "ES256", now) is None
        assert await store.activate_prepared(conn, "EdDSA", now) == "p"
        assert await store.activate_prepared(conn, "EdDSA", now) is None
        (stored,) = await store.list_all(conn)
    assert stored.info.state is KeyState.ACTIVE
    assert stored.info.activate_time == now


async def test_table_rejects_second_active_key(database: Database, clock: FakeClock) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED))
    async with database.connection() as conn:
        with pytest.raises(asyncpg.UniqueViolationError):
            await store.activate_prepared(conn, "ES256", clock.now())


async def test_revoke_reports_whether_key_was_active(database: Database, clock: FakeClock) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED))
    now = clock.now()
    async with database.connection() as conn:
        assert await store.revoke(conn, "p", now, now + HOUR) is False
        assert await store.revoke(conn, "a", now, now + HOUR) is True
        assert await store.revoke(conn, "a", now, now + HOUR) is None
        assert await store.revoke(conn, "unknown", now, now + HOUR) is None
        assert await store.insert(conn, row(clock, "b", KeyState.ACTIVE))
        await store.retire(conn, "b", now, now + HOUR)
        assert await store.revoke(conn, "b", now, now + HOUR) is False
    assert set((await states(database)).values()) == {KeyState.REVOKED}


async def test_only_named_prepared_key_is_removed(database: Database, clock: FakeClock) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED))
    async with database.connection() as conn:
        for key_id in ("a", "unknown"):
            await store.delete_prepared(conn, key_id)
        assert set(await states(database)) == {"a", "p"}
        await store.delete_prepared(conn, "p")
        assert set(await states(database)) == {"a"}


async def test_prepared_key_is_activated_only_once_published_by(
    database: Database, clock: FakeClock
) -> None:
    await insert(database, row(clock, "p", KeyState.PREPARED))
    now = clock.now()
    async with database.connection() as conn:
        early = now - timedelta(microseconds=1)
        assert await store.activate_prepared(conn, "ES256", now, early) is None
        assert await store.activate_prepared(conn, "ES256", now, now) == "p"


async def test_rotation_is_requested_once_and_only_of_active_key(
    database: Database, clock: FakeClock
) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED))
    now = clock.now()
    async with database.connection() as conn:
        assert not await store.request_rotation(conn, "p", now)
        assert not await store.request_rotation(conn, "unknown", now)
        assert await store.request_rotation(conn, "a", now)
        assert not await store.request_rotation(conn, "a", now + HOUR)
        rows = {each.info.key_id: each.info for each in await store.list_all(conn)}
    assert rows["a"].rotate_request_time == now
    assert rows["p"].rotate_request_time is None


async def test_key_is_removed_once_its_last_token_has_expired(
    database: Database, clock: FakeClock
) -> None:
    now = clock.now()
    async with database.connection() as conn:
        for key_id, hours in (("r1", 1), ("r2", 3)):
            await store.insert(conn, row(clock, key_id, KeyState.ACTIVE))
            await store.retire(conn, key_id, now, now + hours * HOUR)
        for key_id, hours in (("x1", 1), ("x2", 3)):
            await store.insert(conn, row(clock, key_id, KeyState.ACTIVE))
            await store.revoke(conn, key_id, now, now + hours * HOUR)
        await store.insert(conn, row(clock, "a", KeyState.ACTIVE))
        await store.insert(conn, row(clock, "p", KeyState.PREPARED))
        await store.delete_expired(conn, now + HOUR - timedelta(microseconds=1), [])
        assert len(await store.list_all(conn)) == 6
        await store.delete_expired(conn, now + HOUR, ["x1"])
        assert len(await store.list_all(conn)) == 5
        await store.delete_expired(conn, now + HOUR, [])
    assert set(await states(database)) == {"r2", "x2", "a", "p"}


async def test_only_named_active_key_is_retired(database: Database, clock: FakeClock) -> None:
    await insert(database, row(clock, "a", KeyState.ACTIVE), row(clock, "p", KeyState.PREPARED))
    now = clock.now()
    async with database.connection() as conn:
        for key_id in ("unknown", "p"):
            assert not await store.retire(conn, key_id, now, now + HOUR)
        assert await states(database) == {"a": KeyState.ACTIVE, "p": KeyState.PREPARED}
        assert await store.retire(conn, "a", now, now + HOUR)
    assert await states(database) == {"a": KeyState.RETIRED, "p": KeyState.PREPARED}


async def test_revoking_retired_key_leaves_active_one(database: Database, clock: FakeClock) -> None:
    now = clock.now()
    async with database.connection() as conn:
        await store.insert(conn, row(clock, "old", KeyState.ACTIVE))
        assert await store.retire(conn, "old", now, now + HOUR)
        await store.insert(conn, row(clock, "new", KeyState.ACTIVE))
        assert await store.revoke(conn, "old", now, now + HOUR) is False
    assert await states(database) == {"old": KeyState.REVOKED, "new": KeyState.ACTIVE}
