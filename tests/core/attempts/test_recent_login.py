"""Requiring a recent login and an active session."""

from dataclasses import replace
from datetime import timedelta

import pytest

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.errors import FailedPrecondition, Reason, Unauthenticated
from tests.support.clock import FakeClock
from tests.support.probe import CLAIMS
from tests.support.sessions import CALL, World

_MAX_AGE = timedelta(minutes=10)


def test_login_is_recent_up_to_its_greatest_age(clock: FakeClock) -> None:
    recent_login = RecentLogin(_MAX_AGE, clock)
    claims = replace(CLAIMS, authentication_time=clock.now())
    recent_login.require(claims)
    clock.advance(_MAX_AGE)
    recent_login.require(claims)
    clock.advance(timedelta(microseconds=1))
    with pytest.raises(FailedPrecondition) as caught:
        recent_login.require(claims)
    assert caught.value.reason is Reason.REAUTHENTICATION_REQUIRED


async def test_only_a_session_that_was_not_ended_is_live(world: World) -> None:
    replica = world.replica()
    live, ended = await world.open(replica), await world.open(replica)
    await replica.sessions.ending.revoke(CALL, ended.session_id)
    recent_login = RecentLogin(_MAX_AGE, world.clock)
    async with world.database.transaction() as connection:
        await recent_login.require_live(connection, live.session_id)
        with pytest.raises(Unauthenticated) as caught:
            await recent_login.require_live(connection, ended.session_id)
    assert caught.value.reason is Reason.BEARER_INVALID
