"""Advancing a refresh counter: once or not at all, and its audit event likewise."""

import asyncio

import pytest

from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason
from authsvc.store import refresh
from authsvc.store import sessions as store
from tests.support.sessions import CALL, CLIENT, DAY, World


async def _advance(world: World, session_id: SessionId, counter: int) -> bool:
    now = world.clock.now()
    event = AuditEvent(AuditType.REFRESH, CALL, client=CLIENT, detail={"note": "as given"})
    async with world.database.connection() as connection:
        stored = await refresh.advance(
            connection, session_id, counter, now + DAY, event_row(now, event)
        )
    return stored is not None


async def _opened(world: World) -> SessionId:
    return (await world.open(world.replica())).session_id


async def test_counter_is_advanced_and_recorded_once(world: World) -> None:
    session_id = await _opened(world)
    outcomes = await asyncio.gather(*(_advance(world, session_id, 0) for _ in range(30)))
    assert outcomes.count(True) == 1
    assert len(await world.events("session.refresh")) == 1
    assert await _advance(world, session_id, 1)
    assert (await world.row(session_id))["refresh_counter"] == 2


@pytest.mark.slow
async def test_event_refers_to_session_and_user(world: World) -> None:
    session_id = await _opened(world)
    await _advance(world, session_id, 0)
    (event,) = await world.events("session.refresh")
    assert event["session_id"] == session_id
    assert event["user_id"] == (await world.row(session_id))["user_id"]
    assert event["occur_time"] == world.clock.now()
    assert (event["caller"], event["request_id"]) == (CALL.caller, CALL.request_id)
    assert (str(event["ip"]), event["user_agent"]) == (CLIENT.ip, CLIENT.user_agent)
    assert event["detail"] == '{"note": "as given"}'


@pytest.mark.parametrize("obstacle", ["older", "newer", "revoked", "expired", "disabled"])
async def test_only_current_token_of_active_session_advances_counter(
    world: World, obstacle: str
) -> None:
    # Another user, who is active, makes no difference.
    await world.add_user()
    session_id = await _opened(world)
    await _advance(world, session_id, 0)
    row = await world.row(session_id)
    now = world.clock.now()
    if obstacle == "revoked":
        async with world.database.connection() as connection:
            await store.revoke(connection, session_id, now, RevokeReason.REVOKED)
    elif obstacle == "expired":
        world.clock.advance(DAY)
    elif obstacle == "disabled":
        await world.disable(row["user_id"])
    counter = {"older": 0, "newer": 2}.get(obstacle, 1)
    assert not await _advance(world, session_id, counter)
    assert (await world.row(session_id))["refresh_counter"] == 1
    assert (await world.row(session_id))["idle_expire_time"] == row["idle_expire_time"]
    assert len(await world.events("session.refresh")) == 1


async def test_lagging_clock_does_not_move_last_use_back(world: World) -> None:
    session_id = await _opened(world)
    before = await world.row(session_id)
    world.clock.advance(-5)
    assert await _advance(world, session_id, 0)
    assert (await world.row(session_id))["last_use_time"] == before["last_use_time"]


async def test_other_sessions_are_left_alone(world: World) -> None:
    session_id, other = await _opened(world), await _opened(world)
    before = await world.row(other)
    world.clock.advance(1)
    assert await _advance(world, session_id, 0)
    assert await world.row(other) == before
    row = await world.row(session_id)
    assert row["refresh_time"] == row["last_use_time"] == world.clock.now()
    assert row["idle_expire_time"] == world.clock.now() + DAY


async def test_idle_expiry_never_exceeds_absolute_expiry(world: World) -> None:
    session_id = await _opened(world)
    end = (await world.row(session_id))["absolute_expire_time"]
    await world.execute("UPDATE sessions SET idle_expire_time = absolute_expire_time")
    world.clock.advance(end - world.clock.now() - DAY / 2)
    assert await _advance(world, session_id, 0)
    assert (await world.row(session_id))["idle_expire_time"] == end
