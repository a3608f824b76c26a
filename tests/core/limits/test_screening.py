"""Screening: what was asked for in so many words, and whose requests are refused."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.config import BruteForceSettings
from authsvc.errors import IpBlocked, NotFound, StoreUnavailable
from authsvc.models.ip_blocks import ScreenReason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import opened
from tests.support.screening import Replica, refused

IP = "203.0.113.7"
HOUR = timedelta(hours=1)


async def test_login_checks_violations_and_block_of_an_hour(
    database: Database, clock: FakeClock
) -> None:
    replica = Replica(database, clock)
    async with replica.following():
        # Five `login` checks pass, and the sixth does not.
        assert [await replica.screen(IP) for _ in range(5)] == [""] * 5
        sixth = await replica.screening.screen(IP, "login")
        assert sixth.reason is ScreenReason.RATE_LIMITED
        assert sixth.retry_after == pytest.approx(60)
        for _ in range(9):
            assert await replica.screen(IP) == "RATE_LIMITED"
        # Ten violations are none too many.
        assert await replica.listed() == []
        with_eleventh = await replica.screen(IP)
        assert with_eleventh == "RATE_LIMITED"
        # After the eleventh refusal, its requests are blocked, whatever the policy.
        blocked = await replica.screening.screen(IP, "api")
        assert blocked.reason is ScreenReason.IP_BLOCKED
        assert blocked.retry_after == pytest.approx(3_600)
        with pytest.raises(IpBlocked) as raised:
            await replica.screening.admit(IP)
        assert raised.value.retry_after == pytest.approx(3_600)
        clock.advance(HOUR - timedelta(seconds=1))
        assert await replica.screen(IP) == "IP_BLOCKED"
        # An hour later they are not.
        clock.advance(1)
        assert await replica.screen(IP) == ""
        await replica.screening.admit(IP)


@pytest.mark.parametrize("is_followed", [True, False])
async def test_blocked_address_is_not_charged(
    database: Database, clock: FakeClock, is_followed: bool
) -> None:
    replica = Replica(database, clock)
    await replica.block(IP, HOUR)

    async def check() -> None:
        assert [await replica.screen(IP) for _ in range(20)] == ["IP_BLOCKED"] * 20
        verdict = await replica.limiter.get("login", f"ip:{IP}/32")
        assert verdict.remaining == 5
        assert replica.violations.noted == 0

    if is_followed:
        async with replica.following():
            await check()
    else:
        await check()


async def test_block_without_end_has_no_retry_time(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    await replica.block(IP)
    answer = await replica.screening.screen(IP, "login")
    assert (answer.reason, answer.retry_after) == (ScreenReason.IP_BLOCKED, None)
    with pytest.raises(IpBlocked) as raised:
        await replica.screening.admit(IP)
    assert raised.value.retry_after is None


async def test_clients_of_ipv6_are_counted_by_their_network(
    database: Database, clock: FakeClock
) -> None:
    replica = Replica(database, clock, BruteForceSettings(ipv6_prefix=56))
    answers = [await replica.screen(f"2001:db8:0:{n:x}::{n:x}") for n in range(6)]
    assert answers == [""] * 5 + ["RATE_LIMITED"]
    assert await replica.screen("2001:db8:0:100::1") == ""
    for n in range(10):
        assert await replica.screen(f"2001:db8::{n:x}") == "RATE_LIMITED"
    assert await replica.listed() == ["2001:db8::/56"]
    assert await replica.screen("2001:db8:0:ff::9") == "IP_BLOCKED"


@pytest.mark.parametrize("is_blocked", [True, False])
async def test_unknown_policy_is_refused(
    database: Database, clock: FakeClock, is_blocked: bool
) -> None:
    replica = Replica(database, clock)
    if is_blocked:
        await replica.block(IP)
    with pytest.raises(NotFound):
        await replica.screen(IP, "no-such-policy")


async def test_replica_whose_copy_is_not_fresh_asks_the_database(
    database: Database, database_dsn: str, clock: FakeClock
) -> None:
    async with opened(database_dsn) as other:
        replica = Replica(other, clock)
        async with replica.following():
            assert await replica.screen(IP) == ""
        # It follows no more; what its memory says may be wrong.
        replica.blocks._follower.forget()
        await Replica(database, clock).block(IP)
        assert await replica.screen(IP) == "IP_BLOCKED"
    with pytest.raises(StoreUnavailable):
        await replica.screening.admit(IP)


async def test_eleven_refusals_of_two_replicas_are_one_too_many(
    database: Database, clock: FakeClock
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    async with here.following(), there.following():
        await refused(here, IP, 6)
        for _ in range(5):
            assert await there.screen(IP) == "RATE_LIMITED"
        await asyncio.gather(here.violations.flush(), there.violations.flush())
        assert await here.listed() == [f"{IP}/32"]
        for replica in (here, there):
            await replica.knows(IP, blocked=True)
            assert await replica.screen(IP) == "IP_BLOCKED"
