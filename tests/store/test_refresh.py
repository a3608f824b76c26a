"""Advancing a refresh counter: once or not at all, and its audit event likewise."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import pytest

from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason
from authsvc.store import refresh
from authsvc.store import sessions as store
from authsvc.store.refresh import AdvanceTimes, PresentedToken
from tests.support.sessions import CALL, CLIENT, DAY, SECOND, World

_GRACE = 10 * SECOND


class Advance(Protocol):
    """Presents a token, and returns whether it advanced the session's counter."""

    def __call__(
        self, session_id: SessionId, counter: int, device_id: str = ""
    ) -> Awaitable[bool]: ...


@pytest.fixture(params=["alone", "with others"])
def advance(request: pytest.FixtureRequest, world: World) -> Advance:
    """Advances a session's counter, by either statement."""

    async def advance(session_id: SessionId, counter: int, device_id: str = "") -> bool:
        now = world.clock.now()
        event = AuditEvent(AuditType.REFRESH, CALL, client=CLIENT, detail={"repeated": False})
        row = event_row(now, event)
        token = PresentedToken(session_id, counter, device_id)
        async with world.database.connection() as connection:
            if request.param == "alone":
                return bool(await refresh.advance(connection, token, _times(now), row))
            other = PresentedToken(SessionId(uuid7(now)), counter, device_id)
            found = await refresh.advance_many(
                connection, [other, token], _times(now), [event_row(now, event), row]
            )
            return session_id in found

    return advance


def _times(now: datetime) -> AdvanceTimes:
    return AdvanceTimes(now + DAY, now - _GRACE)


async def _opened(world: World) -> SessionId:
    return (await world.open(world.replica())).session_id


async def test_counter_is_advanced_and_recorded_once(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    outcomes = await asyncio.gather(*(advance(session_id, 0) for _ in range(30)))
    assert outcomes.count(True) == 1
    assert len(await world.events("session.refresh")) == 1
    assert await advance(session_id, 1)
    assert (await world.row(session_id))["refresh_counter"] == 2


@pytest.mark.slow
async def test_event_refers_to_session_and_user(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    await advance(session_id, 0)
    (event,) = await world.events("session.refresh")
    assert event["session_id"] == session_id
    assert event["user_id"] == (await world.row(session_id))["user_id"]
    assert event["occur_time"] == world.clock.now()
    assert (event["caller"], event["request_id"]) == (CALL.caller, CALL.request_id)
    assert (str(event["ip"]), event["user_agent"]) == (CLIENT.ip, CLIENT.user_agent)
    assert event["detail"] == '{"repeated": false}'


@pytest.mark.parametrize("obstacle", ["older", "newer", "revoked", "expired", "disabled"])
async def test_only_current_token_of_active_session_advances_counter(
    world: World, advance: Advance, obstacle: str
) -> None:
    # Another user, who is active, makes no difference.
    await world.add_user()
    session_id = await _opened(world)
    await advance(session_id, 0)
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
    assert not await advance(session_id, counter)
    assert (await world.row(session_id))["refresh_counter"] == 1
    assert (await world.row(session_id))["idle_expire_time"] == row["idle_expire_time"]
    assert len(await world.events("session.refresh")) == 1


async def test_lagging_clock_does_not_move_last_use_back(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    before = await world.row(session_id)
    world.clock.advance(-5)
    assert await advance(session_id, 0)
    assert (await world.row(session_id))["last_use_time"] == before["last_use_time"]


async def test_other_sessions_are_left_alone(world: World, advance: Advance) -> None:
    session_id, other = await _opened(world), await _opened(world)
    before = await world.row(other)
    world.clock.advance(1)
    assert await advance(session_id, 0)
    assert await world.row(other) == before
    row = await world.row(session_id)
    assert row["refresh_time"] == row["last_use_time"] == world.clock.now()
    assert row["idle_expire_time"] == world.clock.now() + DAY


async def test_idle_expiry_never_exceeds_absolute_expiry(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    end = (await world.row(session_id))["absolute_expire_time"]
    await world.execute("UPDATE sessions SET idle_expire_time = absolute_expire_time")
    world.clock.advance(end - world.clock.now() - DAY / 2)
    assert await advance(session_id, 0)
    assert (await world.row(session_id))["idle_expire_time"] == end


async def test_many_sessions_are_advanced_with_an_event_each(world: World) -> None:
    opened = [await _opened(world) for _ in range(5)]
    now = world.clock.now()
    rows = [
        event_row(now, AuditEvent(AuditType.REFRESH, replace(CALL, request_id=f"r{n}")))
        for n in range(5)
    ]
    async with world.database.connection() as connection:
        presented = zip(opened, [0, 0, 7, 0, 0], strict=True)
        tokens = [PresentedToken(session_id, counter, "") for session_id, counter in presented]
        found = await refresh.advance_many(connection, tokens, _times(now), rows)
    assert set(found) == {*opened} - {opened[2]}
    assert {stored.session.refresh_counter for stored in found.values()} == {1}
    events = await world.events("session.refresh")
    assert {event["session_id"]: event["request_id"] for event in events} == {
        session_id: f"r{n}" for n, session_id in enumerate(opened) if n != 2
    }


async def test_locked_session_does_not_hold_up_the_others(world: World) -> None:
    locked, free = await _opened(world), await _opened(world)
    now = world.clock.now()
    rows = [event_row(now, AuditEvent(AuditType.REFRESH, CALL)) for _ in range(2)]
    async with world.database.transaction() as holder:
        await holder.execute("SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE", locked)
        async with world.database.connection() as connection:
            tokens = [PresentedToken(session_id, 0, "") for session_id in (locked, free)]
            found = await refresh.advance_many(connection, tokens, _times(now), rows)
    assert set(found) == {free}


async def test_lost_answer_burns_the_lost_token(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    await advance(session_id, 0)
    world.clock.advance(_GRACE)
    assert await advance(session_id, 0, CLIENT.device_id)
    row = await world.row(session_id)
    assert (row["refresh_counter"], row["refresh_burned"]) == (2, 1)
    assert row["refresh_time"] == world.clock.now()
    assert not await advance(session_id, 1, CLIENT.device_id)
    details = [event["detail"] for event in await world.events("session.refresh")]
    assert details == ['{"repeated": false}', '{"repeated": false, "lost_answer": true}']
    # The next token that is used is an ordinary one again.
    assert await advance(session_id, 2, CLIENT.device_id)
    row = await world.row(session_id)
    assert (row["refresh_counter"], row["refresh_burned"]) == (3, 0)


@pytest.mark.parametrize("obstacle", ["grace", "device", "no device", "used", "grandparent"])
async def test_only_own_device_recovers_a_lost_answer(
    world: World, advance: Advance, obstacle: str
) -> None:
    session_id = await _opened(world)
    if obstacle == "no device":
        await world.execute("UPDATE sessions SET device_id = ''")
    await advance(session_id, 0)
    if obstacle in {"used", "grandparent"}:
        await advance(session_id, 1)
    world.clock.advance(_GRACE - SECOND if obstacle == "grace" else _GRACE)
    if obstacle == "grandparent":
        assert await advance(session_id, 1, CLIENT.device_id)
    before = await world.row(session_id)
    device_id = {"device": "laptop", "no device": ""}.get(obstacle, CLIENT.device_id)
    assert not await advance(session_id, 0, device_id)
    assert await world.row(session_id) == before


async def test_parent_recovers_a_limited_number_of_times(world: World, advance: Advance) -> None:
    session_id = await _opened(world)
    await advance(session_id, 0)
    outcomes = []
    for _ in range(5):
        world.clock.advance(_GRACE)
        outcomes.append(await advance(session_id, 0, CLIENT.device_id))
    assert outcomes == [True] * 3 + [False] * 2
