"""The statements on sessions: what each one changes and what it leaves unchanged."""

from datetime import datetime, timedelta

import pytest

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason
from authsvc.store import sessions as store
from tests.support.sessions import DAY, SECOND, World

NEVER = timedelta(days=3_650)


async def _opened(world: World, count: int) -> list[SessionId]:
    replica = world.replica(max_per_user=1_000)
    user_id = await world.add_user()
    return [(await world.open(replica, user_id)).session_id for _ in range(count)]


async def test_stored_session_is_found(world: World) -> None:
    (session_id,) = await _opened(world, 1)
    async with world.database.connection() as connection:
        by_id = (await store.find(connection, [session_id]))[session_id]
        by_token = (await store.find_by_token(connection, [by_id.token_hash]))[by_id.token_hash]
        assert await store.find(connection, []) == {}
        assert await store.find(connection, [SessionId(uuid7(world.clock.now()))]) == {}
        assert await store.find_by_token(connection, [b"unknown"]) == {}
    assert by_token.session.session_id == by_id.session.session_id == session_id
    assert by_id.session.client.ip == "192.0.2.1"
    assert by_id.refresh_time == world.clock.now()
    for secret in (by_id.token_hash, by_id.session.csrf_hash):
        assert repr(secret) not in repr(by_id)


async def test_session_requested_twice_is_returned_once(world: World) -> None:
    first, second = await _opened(world, 2)
    async with world.database.connection() as connection:
        found = await store.find(connection, [first, second, first])
    assert set(found) == {first, second}


async def _extend(world: World, ids: list[SessionId], until: datetime) -> set[SessionId]:
    async with world.database.connection() as connection:
        return set(await store.extend(connection, ids, world.clock.now(), until))


async def test_extend_never_shortens_lifetime(world: World) -> None:
    (session_id,) = await _opened(world, 1)
    before = await world.row(session_id)
    assert await _extend(world, [session_id], world.clock.now() + SECOND) == {session_id}
    assert (await world.row(session_id))["idle_expire_time"] == before["idle_expire_time"]


async def test_extend_stops_at_absolute_expiry(world: World) -> None:
    (session_id,) = await _opened(world, 1)
    await _extend(world, [session_id], world.clock.now() + NEVER)
    row = await world.row(session_id)
    assert row["idle_expire_time"] == row["absolute_expire_time"]


async def test_only_active_sessions_are_extended(world: World) -> None:
    revoked, kept = await _opened(world, 2)
    (disabled,) = await _opened(world, 1)
    await world.disable((await world.row(disabled))["user_id"])
    async with world.database.connection() as connection:
        await store.revoke(connection, revoked, world.clock.now(), RevokeReason.REVOKED)
    until = world.clock.now() + 8 * DAY
    assert await _extend(world, [revoked, kept, disabled], until) == {kept}
    world.clock.advance(8 * DAY)
    assert await _extend(world, [kept], until + DAY) == set()


@pytest.mark.parametrize("statement", ["extend", "touch"])
async def test_locked_rows_are_skipped_without_waiting(world: World, statement: str) -> None:
    held, free = await _opened(world, 2)
    world.clock.advance(DAY)
    now = world.clock.now()
    async with world.database.transaction() as connection:
        await store.revoke(connection, held, now, RevokeReason.REVOKED)
        if statement == "extend":
            assert await _extend(world, [held, free], now + 8 * DAY) == {free}
        else:
            await _touch(world, {held: now, free: now})
    assert (await world.row(free))["last_use_time"] == now
    assert (await world.row(held))["last_use_time"] == now - DAY


async def _touch(
    world: World, use_times: dict[SessionId, datetime], interval: timedelta = SECOND
) -> None:
    async with world.database.connection() as connection:
        await store.touch(connection, use_times, interval)


async def test_last_use_only_moves_forward_and_at_most_once_per_interval(world: World) -> None:
    (session_id,) = await _opened(world, 1)
    start = world.clock.now()

    async def touched(offset: int) -> int:
        await _touch(world, {session_id: start + offset * SECOND}, 60 * SECOND)
        since: timedelta = (await world.row(session_id))["last_use_time"] - start
        return since // SECOND

    assert [await touched(offset) for offset in (59, 60, 119, 30, 120)] == [0, 60, 60, 60, 120]


async def test_touch_ignores_deleted_sessions(world: World) -> None:
    now = world.clock.now()
    await _touch(world, {SessionId(uuid7(now)): now})
    await _touch(world, {})


async def test_ending_all_spares_one_and_returns_active_ones(world: World) -> None:
    expired = (await _opened(world, 1))[0]
    user_id: UserId = (await world.row(expired))["user_id"]
    world.clock.advance(7 * DAY)
    replica = world.replica()
    active = (await world.open(replica, user_id)).session_id
    kept = (await world.open(replica, user_id)).session_id
    async with world.database.transaction() as connection:
        ended = await store.revoke_of_user(
            connection, user_id, world.clock.now(), RevokeReason.REVOKED, kept
        )
    assert ended == {expired: False, active: True}
    assert await world.active(user_id) == [kept]


async def test_only_requested_sessions_are_extended(world: World) -> None:
    wanted, other = await _opened(world, 2)
    before = await world.row(other)
    world.clock.advance(DAY)
    assert await _extend(world, [wanted], world.clock.now() + 8 * DAY) == {wanted}
    assert await world.row(other) == before
    row = await world.row(wanted)
    assert row["idle_expire_time"] == world.clock.now() + 8 * DAY
    assert row["last_use_time"] == world.clock.now()


async def test_extend_does_not_move_last_use_back(world: World) -> None:
    (session_id,) = await _opened(world, 1)
    before = await world.row(session_id)
    world.clock.advance(-5)
    assert await _extend(world, [session_id], world.clock.now() + 8 * DAY) == {session_id}
    assert (await world.row(session_id))["last_use_time"] == before["last_use_time"]


async def test_session_is_ended_once_and_alone(world: World) -> None:
    ended, kept = await _opened(world, 2)
    user_id = (await world.row(ended))["user_id"]
    now = world.clock.now()
    async with world.database.connection() as connection:
        for reason, expected in ((RevokeReason.LOGOUT, user_id), (RevokeReason.REVOKED, None)):
            assert await store.revoke(connection, ended, now, reason) == expected
    assert (await world.row(ended))["revoke_reason"] == RevokeReason.LOGOUT
    assert await world.active(user_id) == [kept]


async def test_ending_all_of_a_user_leaves_ended_ones_and_other_users(world: World) -> None:
    (others,) = await _opened(world, 1)
    ended, active = await _opened(world, 2)
    user_id: UserId = (await world.row(active))["user_id"]
    now = world.clock.now()
    async with world.database.transaction() as connection:
        await store.revoke(connection, ended, now, RevokeReason.LOGOUT)
        found = await store.revoke_of_user(connection, user_id, now, RevokeReason.REVOKED, None)
    assert found == {active: True}
    assert (await world.row(ended))["revoke_reason"] == RevokeReason.LOGOUT
    assert (await world.row(others))["revoke_time"] is None
