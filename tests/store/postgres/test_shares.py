"""The share of the connections that may wait for one key."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.shares import Shares
from tests.support.databases import opened

_PATIENCE = 30.0


async def _hold(database: Database, key: str, release: asyncio.Event) -> None:
    async with database.transaction(key):
        await release.wait()


async def test_one_key_gets_a_quarter_of_the_connections(database_dsn: str) -> None:
    release = asyncio.Event()
    async with opened(database_dsn, pool_max=8) as database, asyncio.timeout(_PATIENCE):
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(_hold(database, "locked", release))
            async with AsyncExitStack() as stack:
                # All that is left, while 30 wait for the same key.
                for number in range(6):
                    await stack.enter_async_context(database.connection(number % 3))
            release.set()
        # Nothing is left of a key that nobody uses.
        assert not database._shares._shares


async def test_smallest_pool_lends_its_connection(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1) as database, database.connection("key"):
        pass


async def test_waiters_of_key_get_in_in_order_and_may_give_up() -> None:
    shares, order = Shares(1, _PATIENCE), list[int]()

    async def use(number: int) -> None:
        await shares.enter("key")
        order.append(number)
        shares.leave("key")

    await shares.enter("key")
    tasks = [asyncio.create_task(use(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    shares.leave("key")
    # It has its turn already when it is cancelled.
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [2, 3]
    assert not shares._shares


async def test_waiting_for_key_is_bounded() -> None:
    shares = Shares(1, 0.01)
    await shares.enter("key")
    with pytest.raises(StoreUnavailable):
        await shares.enter("key")
    shares.leave("key")
    assert not shares._shares
