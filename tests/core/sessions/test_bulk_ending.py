"""The ending of many users' sessions at once: complete, in pages, and never in a deadlock."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.core.lib.slices import Slices
from authsvc.core.sessions.bulk_ending import BulkSessionEnding
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call
from authsvc.models.ids import SessionId
from authsvc.models.sessions import SessionSelection
from authsvc.models.tokens import InactiveReason
from tests.support.databases import opened, until, waits_for_a_lock
from tests.support.sessions import Replica, World

ALL = SessionSelection()
CALL = Call("request-9", "cli:root")


def ending(world: World, replica: Replica) -> BulkSessionEnding:
    return BulkSessionEnding(
        database=world.database,
        cache=replica.sessions.cache,
        slices=Slices(),
        clock=world.clock,
    )


async def opened_sessions(world: World, replica: Replica, count: int) -> list[SessionId]:
    return [(await world.open(replica)).session_id for _ in range(count)]


async def ended(world: World) -> list[SessionId]:
    rows = await world.fetch(
        "SELECT session_id FROM sessions WHERE revoke_time IS NOT NULL ORDER BY session_id"
    )
    return [row["session_id"] for row in rows]


@pytest.mark.parametrize(("find", "end"), [(1, 1), (2, 1), (2, 3), (3, 2), (100, 4), (7, 7)])
async def test_all_pages_are_ended_once(
    find: int, end: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.sessions.bulk_ending._FIND", find)
    monkeypatch.setattr("authsvc.core.sessions.bulk_ending._END", end)
    replica = world.replica()
    ids = await opened_sessions(world, replica, 7)
    counts = list[int]()
    assert await ending(world, replica).count(ALL) == 7
    assert (await ending(world, replica).end(CALL, ALL, counts.append)).count == 7
    assert counts == sorted(counts)
    assert counts[-1] == 7
    assert await ended(world) == sorted(ids)
    assert sorted(await world.revoked()) == sorted(ids)
    assert len(await world.events("session.revoke")) == 7
    assert (await ending(world, replica).end(CALL, ALL)).count == 0
    assert len(await world.revoked()) == 7


async def test_cached_sessions_are_dropped_here(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    assert (await replica.validate(tokens.session_token)).active
    await ending(world, replica).end(CALL, ALL)
    # Without any notice from the revocation log.
    result = await replica.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def test_concurrent_calls_end_each_session_once(world: World) -> None:
    replica = world.replica()
    ids = await opened_sessions(world, replica, 20)
    calls = await asyncio.gather(*(ending(world, replica).end(CALL, ALL) for _ in range(5)))
    assert sum(call.count for call in calls) == 20
    assert sorted(await world.revoked()) == sorted(ids)


async def test_locked_session_is_left_out_and_then_waited_for(
    world: World, database_dsn: str
) -> None:
    replica = world.replica()
    ids = await opened_sessions(world, replica, 3)
    async with opened(database_dsn) as other, other.transaction() as connection:
        await connection.execute("SELECT FROM sessions WHERE session_id = $1 FOR UPDATE", ids[1])
        work = asyncio.create_task(ending(world, replica).end(CALL, ALL))
        # pg_stat_activity is frozen within a transaction.
        async with world.database.connection() as watching:
            await until(lambda: waits_for_a_lock(watching))
        # Whoever waits holds no other lock: the others have ended.
        assert await ended(world) == sorted([ids[0], ids[2]])
        await connection.execute(
            "UPDATE sessions SET last_use_time = now() WHERE session_id = $1", ids[1]
        )
    assert (await work).count == 3
    assert await ended(world) == sorted(ids)


async def test_lock_held_for_too_long_fails_and_repeated_call_ends_the_rest(
    world: World, database_dsn: str
) -> None:
    replica = world.replica()
    ids = await opened_sessions(world, replica, 3)
    async with opened(database_dsn) as other:
        async with other.transaction() as connection:
            await connection.execute(
                "SELECT FROM sessions WHERE session_id = $1 FOR UPDATE", ids[0]
            )
            async with opened(database_dsn, lock_timeout=timedelta(milliseconds=1)) as impatient:
                hasty = BulkSessionEnding(
                    database=impatient,
                    cache=replica.sessions.cache,
                    slices=Slices(),
                    clock=world.clock,
                )
                with pytest.raises(StoreUnavailable):
                    await hasty.end(CALL, ALL)
        assert await ended(world) == sorted(ids[1:])
        assert (await ending(world, replica).end(CALL, ALL)).count == 1
    assert await ended(world) == sorted(ids)
    stages = [row["detail"] for row in await world.events("session.revoke_all")]
    assert ["begin" in detail for detail in stages] == [True, True, False]


async def test_expired_session_is_left_alone(world: World) -> None:
    replica = world.replica()
    await world.open(replica)
    world.clock.advance(timedelta(days=31))
    assert (await ending(world, replica).end(CALL, ALL)).count == 0
    assert await ended(world) == []
