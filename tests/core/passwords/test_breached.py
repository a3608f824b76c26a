"""Breached passwords are refused; answers are remembered, shared and bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import aiohttp
import pytest
import pytest_asyncio

from authsvc.core.passwords.breached import BreachedPasswords
from authsvc.errors import FieldInvalid, ProviderUnavailable, Reason
from authsvc.outbound.breached_passwords import open_ranges
from authsvc.outbound.proxy import DIRECT
from tests.support.breached import RangeServer, sha1
from tests.support.clock import FakeClock
from tests.support.logs import caught
from tests.support.provider import saying

PASSWORD = "Correct-Horse-42-Staple"

Build = Callable[..., BreachedPasswords]


@pytest_asyncio.fixture
async def build(
    ranges: RangeServer, http: aiohttp.ClientSession, clock: FakeClock
) -> AsyncIterator[Build]:
    def build(**more: object) -> BreachedPasswords:
        settings = ranges.asked_by(**more)
        api = open_ranges(settings, http, DIRECT)
        assert api is not None
        return BreachedPasswords(api, settings, clock)

    yield build


async def outcome(breached: BreachedPasswords, password: str = PASSWORD) -> str:
    try:
        await breached.check(password, "new_password")
    except FieldInvalid as error:
        return "weak" if error.reason is Reason.PASSWORD_WEAK else error.reason
    except ProviderUnavailable:
        return "unavailable"
    return "ok"


@pytest.mark.parametrize(
    ("count", "threshold", "expected"),
    [(0, 0, "ok"), (1, 0, "weak"), (5, 5, "ok"), (6, 5, "weak")],
)
async def test_password_is_refused_above_the_threshold(
    count: int, threshold: int, expected: str, ranges: RangeServer, build: Build
) -> None:
    ranges.counts[PASSWORD] = count
    breached = build(threshold=threshold)
    assert await outcome(breached) == expected
    assert await outcome(breached, PASSWORD + "2") == "ok"
    assert breached.refusals == (expected == "weak")


async def test_password_is_looked_up_as_it_is_hashed(ranges: RangeServer, build: Build) -> None:
    ranges.counts["ﬁn de siècle".replace("ﬁ", "fi")] = 1
    assert await outcome(build(), "ﬁn de siècle") == "weak"


@pytest.mark.parametrize(("on_failure", "expected"), [("allow", "ok"), ("refuse", "unavailable")])
async def test_failure_is_open_or_closed_as_configured(
    on_failure: str, expected: str, ranges: RangeServer, build: Build
) -> None:
    ranges.counts[PASSWORD] = 1
    ranges.handler = saying("", 500)
    breached = build(on_failure=on_failure)
    with caught() as lines:
        assert await outcome(breached) == expected
    assert "breached_passwords_unavailable" in lines.getvalue()
    for part in (PASSWORD, sha1(PASSWORD)[:5], sha1(PASSWORD)[5:]):
        assert part.casefold() not in lines.getvalue().casefold()
    assert (breached.requests, breached.failures) == (1, 1)
    # A failure is not remembered.
    ranges.handler = None
    assert await outcome(breached) == "weak"


async def test_answer_is_remembered_for_a_while(
    ranges: RangeServer, build: Build, clock: FakeClock
) -> None:
    breached = build(cache_lifetime="1h")
    assert await outcome(breached) == "ok"
    ranges.counts[PASSWORD] = 1
    clock.advance(timedelta(minutes=59))
    assert await outcome(breached) == "ok"
    assert len(ranges.asked) == 1
    clock.advance(timedelta(minutes=2))
    assert await outcome(breached) == "weak"
    assert len(ranges.asked) == 2


async def test_memory_is_bounded(ranges: RangeServer, build: Build) -> None:
    breached = build(cache_size=2)
    for number in range(4):
        await breached.check(f"{PASSWORD}{number}", "password")
    await breached.check(f"{PASSWORD}3", "password")
    assert len(ranges.asked) == 4
    await breached.check(f"{PASSWORD}0", "password")
    assert len(ranges.asked) == 5


async def test_calls_at_the_same_time_share_a_request(ranges: RangeServer, build: Build) -> None:
    ranges.counts[PASSWORD] = 1
    breached = build()
    outcomes = await asyncio.gather(*(outcome(breached) for _ in range(50)))
    assert outcomes == ["weak"] * 50
    assert len(ranges.asked) == 1


async def test_cancelled_caller_does_not_cancel_the_request_of_others(
    ranges: RangeServer, build: Build
) -> None:
    ranges.counts[PASSWORD] = 1
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: object) -> object:
        arrived.set()
        await go_on.wait()
        ranges.handler = None
        return await ranges.dispatch(request)  # type: ignore[arg-type] # a test's own handler

    ranges.handler = wait  # type: ignore[assignment] # a test's own handler
    breached = build()
    first, second = (asyncio.create_task(outcome(breached)) for _ in range(2))
    await arrived.wait()
    first.cancel()
    go_on.set()
    assert await second == "weak"
    with pytest.raises(asyncio.CancelledError):
        await first
