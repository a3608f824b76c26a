"""Violations: how they are counted, and when a network is blocked for them."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from authsvc.config import BlockSettings, BruteForceSettings
from authsvc.core.limits import violations as module
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import opened, settings_for
from tests.support.screening import Replica

IP = "203.0.113.7"
_EVENTS = "SELECT caller, detail FROM audit_events WHERE type = 'ip.block'"


async def _note(replica: Replica, times: int, ip: str = IP) -> None:
    for _ in range(times):
        await replica.violations.note(ip)


async def test_parallel_violations_block_once(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    async with replica.following():
        await asyncio.gather(*(replica.violations.note(IP) for _ in range(200)))
        await replica.violations.flush()
        assert await replica.listed() == [f"{IP}/32"]
        async with database.connection() as connection:
            (event,) = await connection.fetch(_EVENTS)
        assert event["caller"] == "system"
        assert replica.violations.blocked == 1
        assert replica.violations._counts == {}


async def test_counts_of_a_second_are_added_in_one_statement(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, other = Replica(database, clock), Replica(database, clock)
    ips = [f"198.51.100.{n}" for n in range(50)]
    for ip in ips:
        await _note(replica, 6, ip)
        await _note(other, 4, ip)
    charges: list[int] = []
    check = replica.violations._limiter.check_many

    async def check_many(checks: Iterable[object], slices: object) -> object:
        charges.append(len(list(checks)))
        return await check(checks, slices)  # type: ignore[arg-type] # passed on as they come

    monkeypatch.setattr(replica.violations._limiter, "check_many", check_many)
    await replica.violations.flush()
    assert charges == [50]
    await other.violations.flush()
    assert await replica.listed() == []
    # What others have added is known after the next flush: one more is one too many, at once.
    await _note(other, 1, ips[0])
    assert await replica.listed() == [f"{ips[0]}/32"]
    await _note(replica, 1, ips[1])
    await replica.violations.flush()
    assert await replica.listed() == [f"{ip}/32" for ip in ips[:2]]


async def test_eleventh_blocks_at_once_while_others_are_being_added(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(database, clock)
    await _note(replica, 10)
    begun, go_on = asyncio.Event(), asyncio.Event()
    check = replica.violations._limiter.check_many

    async def check_many(checks: Any, slices: Any) -> object:
        begun.set()
        await go_on.wait()
        return await check(checks, slices)

    monkeypatch.setattr(replica.violations._limiter, "check_many", check_many)
    flushing = asyncio.create_task(replica.violations.flush())
    await begun.wait()
    await _note(replica, 1)
    assert await replica.listed() == [f"{IP}/32"]
    await _note(replica, 20)
    go_on.set()
    await flushing
    assert replica.violations.blocked == 1


async def test_violations_of_an_earlier_window_are_forgotten(
    database: Database, clock: FakeClock
) -> None:
    replica = Replica(database, clock)
    await _note(replica, 10)
    await replica.violations.flush()
    clock.advance(timedelta(minutes=11))
    await _note(replica, 10)
    await replica.violations.flush()
    assert await replica.listed() == []
    await _note(replica, 1)
    assert await replica.listed() == [f"{IP}/32"]


async def test_settings_say_how_many_and_for_how_long(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, violations={"requests": 2, "window": "1m"}, duration="5m")
    await _note(replica, 2)
    assert await replica.listed() == []
    await _note(replica, 1)
    (block,) = await replica.blocking.list_after(None, 10)
    assert block.expire_time == clock.now() + timedelta(minutes=5)
    assert block.reason == "more than 2 requests were refused within 1m"
    assert (block.automatic, block.blocked_by) == (True, "system")
    replica.violations.replace_settings(BlockSettings(automatic=False), BruteForceSettings())
    await _note(replica, 50, "192.0.2.1")
    await replica.violations.flush()
    assert len(await replica.listed()) == 1
    assert replica.violations.noted == 53


async def test_allowed_addresses_have_no_violations(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, allow=["203.0.113.0/24", "2001:db8::1"])
    await _note(replica, 30)
    await _note(replica, 30, "2001:db8::1")
    assert await replica.listed() == []
    # A neighbour in the same /64 is not allowed, and what is blocked for it leaves the other alone.
    await _note(replica, 11, "2001:db8::2")
    assert await replica.listed() == ["2001:db8::/64"]
    assert await replica.screen("2001:db8::1") == ""
    assert await replica.screen("2001:db8::2") == "IP_BLOCKED"
    assert await replica.screen(IP) == ""


async def test_counting_is_bounded(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_COUNTED", 3)
    replica = Replica(database, clock)
    for n in range(10):
        await replica.violations.note(f"192.0.2.{n}")
    assert len(replica.violations._counts) == 3
    await replica.violations.flush()
    assert len(replica.violations._known) == 3
    # There is room again.
    await _note(replica, 11, "192.0.2.9")
    assert await replica.listed() == ["192.0.2.9/32"]


async def test_block_waits_in_memory_for_the_database(
    database: Database, database_dsn: str, clock: FakeClock
) -> None:
    async with opened(database_dsn) as other:
        replica = Replica(other, clock)
        async with replica.following():
            replica.violations._database = replica.violations._limiter._database = (
                broken
            ) = await Database.open(settings_for(database_dsn))
            await broken.close()
            # Blocked at once, although it can't be stored.
            await _note(replica, 11)
            assert await replica.screen(IP) == "IP_BLOCKED"
            assert await replica.listed() == []
            await replica.violations.flush()
            replica.violations._database = replica.violations._limiter._database = other
            await replica.violations.flush()
            assert await replica.listed() == [f"{IP}/32"]


async def test_no_more_blocks_than_settings_allow(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, max_blocks=2)
    async with replica.following():
        for n in range(4):
            await _note(replica, 11, f"192.0.2.{n}")
        assert await replica.listed() == ["192.0.2.0/32", "192.0.2.1/32"]


async def test_floods_leave_room_for_operators(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, max_blocks=10)
    async with replica.following():
        for n in range(12):
            await _note(replica, 11, f"192.0.2.{n}")
        assert len(await replica.listed()) == 9
        await replica.block("203.0.113.0/24")
        assert len(await replica.listed()) == 10


async def test_longer_block_is_not_shortened(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    made = await replica.block(IP)
    await _note(replica, 11)
    assert await replica.blocking.list_after(None, 10) == [made]
    async with replica.following():
        await _note(replica, 11)
        clock.advance(timedelta(hours=2))
        assert await replica.screen(IP) == "IP_BLOCKED"
