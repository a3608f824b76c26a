"""A replica's copy of the blocks: what it knows when, and that it never claims too much."""

from datetime import timedelta

import pytest

from authsvc.core.limits import block_list
from authsvc.errors import StoreUnavailable
from authsvc.store import ip_blocks as store
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.screening import Replica

IP, HOUR = "203.0.113.7", timedelta(hours=1)


async def test_blocks_and_their_ends_are_known_everywhere(
    database: Database, clock: FakeClock
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    async with there.following():
        await here.block("203.0.113.0/24", HOUR)
        await there.knows(IP, blocked=True)
        assert await there.screen(IP) == "IP_BLOCKED"
        assert (await here.unblock("203.0.113.0/24")).was_blocked
        await there.knows(IP, blocked=False)
        assert await there.screen(IP) == ""
        await here.block("203.0.113.0/24", HOUR)
        await there.knows(IP, blocked=True)


async def test_change_that_is_committed_late_is_not_missed(
    database: Database, clock: FakeClock
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    made = await here.block("192.0.2.1")
    async with there.following():
        async with database.transaction() as connection:
            await store.end(connection, made.network, clock.now())
            await here.block(IP)
            await there.knows(IP, blocked=True)
            assert await there.screen("192.0.2.1") == "IP_BLOCKED"
        await there.knows("192.0.2.1", blocked=False)


async def test_blocks_are_read_in_pages_and_again_when_many_were_added(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_list, "_PAGE", 3)
    monkeypatch.setattr(block_list, "_MAX_ADDED", 5)
    here, there = Replica(database, clock), Replica(database, clock)
    ips = [f"192.0.2.{n}" for n in range(20)]
    for ip in (*ips[:10], "2001:db8::1", "2001:db8::2"):
        await here.block(ip, HOUR)
    async with there.following():
        assert len(there.blocks) == 12
        for ip in ips[10:]:
            await here.block(ip, HOUR)
        for ip in (*ips, "2001:db8::1", "2001:db8::2"):
            await there.knows(ip, blocked=True)

        async def are_read_again() -> bool:
            return there.blocks._blocks.added <= 5

        await until(are_read_again)
        assert len(there.blocks) == 22


async def test_change_while_blocks_are_read_is_kept(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    await here.block("192.0.2.1", HOUR)
    load_after = store.load_after

    async def slow(*arguments: object) -> list[tuple[str, float]]:
        rows = await load_after(*arguments)  # type: ignore[arg-type] # passed on as they come
        # Both come after the rows were read.
        await here.unblock("192.0.2.1")
        await here.block(IP, HOUR)
        await there.knows(IP, blocked=True)
        return rows

    monkeypatch.setattr(store, "load_after", slow)
    async with there.following():
        assert await there.screen(IP) == "IP_BLOCKED"
        assert await there.screen("192.0.2.1") == ""


async def test_replica_that_may_have_missed_blocks_reads_all_again(
    database: Database, clock: FakeClock
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    await here.block("192.0.2.1", HOUR)
    async with there.following():
        assert there.blocks.is_fresh()
        there.blocks._follower.forget()
        assert not there.blocks.is_fresh()
        await here.block(IP, HOUR)
        assert await there.screen(IP) == "IP_BLOCKED"
        await there.fresh()
        assert len(there.blocks) == 2
        assert await there.screen(IP) == "IP_BLOCKED"


async def test_failed_read_is_repeated(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_list, "_BACKOFF", 0.01)
    here, there = Replica(database, clock), Replica(database, clock)
    await here.block(IP, HOUR)
    load_after, failures = store.load_after, [StoreUnavailable(), StoreUnavailable()]

    async def fail(*arguments: object) -> list[tuple[str, float]]:
        if failures:
            raise failures.pop()
        return await load_after(*arguments)  # type: ignore[arg-type] # passed on as they come

    monkeypatch.setattr(store, "load_after", fail)
    async with there.following():
        assert failures == []
        assert len(there.blocks) == 1


async def test_ended_blocks_are_removed_later(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    await replica.block(IP, HOUR)
    await replica.block("192.0.2.1")
    async with database.connection() as connection:
        assert await store.delete_ended(connection, clock.now() + HOUR, 10) == 0
        assert await store.delete_ended(connection, clock.now() + 2 * HOUR, 10) == 1
    assert await replica.listed() == ["192.0.2.1/32"]


async def test_copy_that_was_not_read_for_long_is_not_used(
    database: Database, clock: FakeClock
) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    async with there.following():
        pass
    await here.block(IP, HOUR)
    there.blocks._follower._complete_until = float("-inf")
    assert await there.screen(IP) == "IP_BLOCKED"


async def test_copy_with_a_gap_is_not_used(database: Database, clock: FakeClock) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    async with there.following():
        pass
    await here.block(IP, HOUR)
    there.blocks._follower._complete_until = float("inf")
    assert await there.screen(IP) == ""
    there.blocks._on_gap()
    assert await there.screen(IP) == "IP_BLOCKED"
