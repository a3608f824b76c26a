"""Sessions in use: extended, and their last use recorded."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.config import TokenSettings
from authsvc.core.sessions.validation import SessionCheck
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CALL, CLIENT, DAY, SECOND, Replica, World

MINUTE = timedelta(minutes=1)


async def test_lifetime_is_extended_once_half_has_passed(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    start = world.clock.now()
    world.clock.advance(3.5 * DAY - SECOND)
    assert await _idle_expire_time(replica, tokens) == start + 7 * DAY
    world.clock.advance(SECOND)
    assert await _idle_expire_time(replica, tokens) == world.clock.now() + 7 * DAY
    row = await world.row(tokens.session_id)
    assert row["idle_expire_time"] == world.clock.now() + 7 * DAY


@pytest.mark.parametrize("strict", [True, False])
async def test_lifetime_is_never_extended_past_absolute_expiry(world: World, strict: bool) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    end = world.clock.now() + 30 * DAY
    while world.clock.now() < end:
        result = await replica.validate(tokens.session_token, strict=strict)
        assert result.session is not None
        assert result.session.idle_expire_time <= end
        world.clock.advance(DAY)
    result = await replica.validate(tokens.session_token, strict=strict)
    assert result.reason is InactiveReason.SESSION_EXPIRED


async def test_expired_session_is_not_revived(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    world.clock.advance(7 * DAY)
    for _ in range(2):
        result = await replica.validate(tokens.session_token)
        assert result.reason is InactiveReason.SESSION_EXPIRED
    assert (await world.row(tokens.session_id))["idle_expire_time"] == world.clock.now()


async def test_session_extended_by_another_replica_is_still_active(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    world.clock.advance(5 * DAY)
    await there.validate(tokens.session_token)
    world.clock.advance(3 * DAY)
    assert (await here.validate(tokens.session_token)).active


async def test_session_refreshed_by_another_replica_is_still_active(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    world.clock.advance(6 * DAY)
    await there.refresh(tokens.refresh_token)
    world.clock.advance(2 * DAY)
    assert (await here.validate(tokens.session_token)).active


async def test_refresh_is_visible_in_session_immediately(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    world.clock.advance(DAY)
    await replica.refresh(tokens.refresh_token)
    assert await _idle_expire_time(replica, tokens) == world.clock.now() + 7 * DAY


async def test_locked_session_is_validated_without_waiting(
    world: World,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    world.clock.advance(4 * DAY)
    async with world.database.transaction() as connection:
        await connection.execute(
            "UPDATE sessions SET device_id = 'other' WHERE session_id = $1", tokens.session_id
        )
        assert (await replica.validate(tokens.session_token)).active
    await replica.validate(tokens.session_token)
    row = await world.row(tokens.session_id)
    assert row["idle_expire_time"] == world.clock.now() + 7 * DAY


async def test_many_sessions_are_extended_in_few_statements(world: World) -> None:
    replica = world.replica(max_per_user=100)
    user_id = await world.add_user()
    opened = [await world.open(replica, user_id) for _ in range(50)]
    world.clock.advance(4 * DAY)
    checks = [SessionCheck(tokens.session_token, CLIENT) for tokens in opened]
    results = await replica.sessions.validation.validate_many(checks)
    end = world.clock.now() + 7 * DAY
    assert all(result.session and result.session.idle_expire_time == end for result in results)


async def test_last_use_is_written_once_per_interval(world: World) -> None:
    replica = world.replica(last_use_interval="1m")
    tokens = await world.open(replica)
    start = world.clock.now()

    async def written() -> timedelta:
        await replica.sessions.last_use.flush()
        time: timedelta = (await world.row(tokens.session_id))["last_use_time"] - start
        return time

    for offset, expected in ((30, 0), (60, 60), (90, 60), (119, 60), (125, 125)):
        world.clock.advance(start + offset * SECOND - world.clock.now())
        result = await replica.validate(tokens.session_token)
        assert result.session is not None
        assert result.session.last_use_time == start + expected * SECOND
        assert await written() == expected * SECOND


async def test_replicas_together_write_last_use_once_per_interval(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    for replica in (here, there):
        await replica.validate(tokens.session_token)
    world.clock.advance(MINUTE)
    await here.validate(tokens.session_token)
    await here.sessions.last_use.flush()
    first = world.clock.now()
    world.clock.advance(10)
    await there.validate(tokens.session_token)
    await there.sessions.last_use.flush()
    assert (await world.row(tokens.session_id))["last_use_time"] == first


@pytest.mark.slow
async def test_last_use_is_written_in_the_background(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    running = asyncio.create_task(replica.sessions.last_use.run())
    world.clock.advance(MINUTE)
    await replica.validate(tokens.session_token)
    async with asyncio.timeout(30):
        while await _last_use(world, tokens) != world.clock.now():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    running.cancel()


async def _last_use(world: World, tokens: Tokens) -> object:
    return (await world.row(tokens.session_id))["last_use_time"]


async def test_writing_last_use_revives_no_session(world: World) -> None:
    replica = world.replica()
    revoked, gone, kept = [await world.open(replica) for _ in range(3)]
    world.clock.advance(MINUTE)
    for tokens in (revoked, gone, kept):
        await replica.validate(tokens.session_token)
    await replica.sessions.ending.revoke(CALL, revoked.session_id)
    await world.execute("DELETE FROM sessions WHERE session_id = $1", gone.session_id)
    await replica.sessions.last_use.flush()
    assert (await world.row(revoked.session_id))["revoke_time"] == world.clock.now()
    assert (await world.row(revoked.session_id))["last_use_time"] == world.clock.now() - MINUTE
    assert (await world.row(kept.session_id))["last_use_time"] == world.clock.now()
    result = await replica.validate(revoked.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def _idle_expire_time(replica: Replica, tokens: Tokens) -> object:
    result = await replica.validate(tokens.session_token)
    assert result.session is not None
    return result.session.idle_expire_time


async def test_short_lifetimes_are_exact_to_the_second(world: World) -> None:
    short = TokenSettings.model_validate({"refresh_lifetime": "2s"})
    replica = world.replica(tokens=short, absolute_lifetime="3s")
    tokens = await world.open(replica)
    for _ in range(3):
        assert (await replica.validate(tokens.session_token)).active
        world.clock.advance(1)
    result = await replica.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_EXPIRED


async def test_uncached_session_is_extended_once_half_has_passed(world: World) -> None:
    tokens = await world.open(world.replica())
    start = world.clock.now()
    world.clock.advance(3.5 * DAY - SECOND)
    assert await _idle_expire_time(world.replica(), tokens) == start + 7 * DAY
    world.clock.advance(SECOND)
    assert await _idle_expire_time(world.replica(), tokens) == world.clock.now() + 7 * DAY


async def test_use_of_access_token_is_recorded_once_per_interval(world: World) -> None:
    replica = world.replica(last_use_interval="1m")
    tokens = await world.open(replica)
    start = world.clock.now()
    # First from the database, then from the cache.
    for offset, expected in ((59, 0), (60, 60), (119, 60), (120, 120)):
        world.clock.advance(start + offset * SECOND - world.clock.now())
        found = await replica.sessions.validation.find(tokens.session_id, strict=offset <= 60)
        assert found is not None
        assert found.last_use_time == start + expected * SECOND
        await replica.sessions.last_use.flush()
        assert await _last_use(world, tokens) == start + expected * SECOND


async def test_use_of_session_past_its_absolute_expiry_is_not_recorded(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    start = world.clock.now()
    world.clock.advance(30 * DAY)
    session = await replica.sessions.validation.find(tokens.session_id)
    assert session is not None
    assert session.last_use_time == start
    await replica.sessions.last_use.flush()
    assert await _last_use(world, tokens) == start
