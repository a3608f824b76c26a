"""Missed revocations: whoever needs a page shares it, and a failure is nobody else's."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from authsvc.core.lib.clock import SystemClock
from authsvc.core.revocations import missed as module
from authsvc.core.revocations.cursors import WatchCursor
from authsvc.core.revocations.missed import MissedRevocations, WatchedRevocations
from authsvc.errors import StoreUnavailable
from authsvc.store import revocations
from authsvc.store.log_reading import read_log
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.databases import opened

_VALIDITY = timedelta(hours=1)
_Encode = Callable[[WatchedRevocations], Awaitable[list[str]]]


def _counting() -> tuple[list[int], _Encode]:
    encoded = [0]

    async def encode(watched: WatchedRevocations) -> list[str]:
        encoded[0] += 1
        return [revocation.id for revocation in watched.revocations]

    return encoded, encode


async def _beginning(database: Database, count: int) -> WatchCursor:
    """Revoke something and return the cursor of a watcher that knows nothing."""
    now = SystemClock().now()
    async with database.connection() as connection:
        for number in range(count):
            await revocations.append(connection, now, key_id=str(number))
        read = await read_log(connection, revocations.LOG, None, 1)
    return WatchCursor(read.end, (now - _VALIDITY, 0))


async def test_page_is_read_once_for_all_who_need_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    encoded, encode = _counting()
    missed = MissedRevocations(database, lambda: _VALIDITY, encode)
    beginning = await _beginning(database, 5)
    pages = await asyncio.gather(*(missed.page(beginning, "a") for _ in range(100)))
    # Revocations of one time, in the order of their keys.
    assert all(page.message == ["0", "1", "2"] for page in pages)
    assert (await missed.page(pages[0].cursor, "a")).message == ["3", "4"]
    # Those who come later find it, too.
    assert (await missed.page(beginning, "a")).message == ["0", "1", "2"]
    assert encoded == [2]
    last = (await missed.page(pages[0].cursor, "a")).cursor
    assert last == WatchCursor(beginning.position)
    assert (await missed.page(last, "a")).message == []


async def test_pages_that_are_kept_are_few(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 1)
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    encoded, encode = _counting()
    missed = MissedRevocations(database, lambda: _VALIDITY, encode)
    cursor = beginning = await _beginning(database, 4)
    while cursor.catch_up:
        cursor = (await missed.page(cursor, "a")).cursor
    before = encoded[0]
    await missed.page(beginning, "a")
    assert encoded[0] == before + 1
    assert len(missed._kept) == 2


async def test_reads_are_few_at_a_time_however_many_cursors(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    read_page = revocations.read_page

    async def counted(*arguments: object) -> revocations.Page:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await read_page(*arguments)  # type: ignore[arg-type] # passed on
        finally:
            running -= 1

    monkeypatch.setattr(revocations, "read_page", counted)
    async with opened(database_dsn, pool_min=8, pool_max=64) as database:
        missed = MissedRevocations(database, lambda: _VALIDITY, _counting()[1])
        beginning = await _beginning(database, 3)
        now = SystemClock().now()
        cursors = [WatchCursor(beginning.position, (now, number)) for number in range(20)]
        await asyncio.gather(
            *(missed.page(cursor, "ab"[number % 2]) for number, cursor in enumerate(cursors))
        )
    assert most == 2


class Gate:
    """Lets reads pass one by one; `read` has the keys of those that have begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read_page = revocations.read_page
        self._may_pass = asyncio.Semaphore(0)
        self.read: list[int] = []
        monkeypatch.setattr(revocations, "read_page", self._read_when_allowed)

    async def _read_when_allowed(
        self, connection: Connection, after: revocations.Place, limit: int
    ) -> revocations.Page:
        self.read.append(after[1])
        await self._may_pass.acquire()
        return await self._read_page(connection, after, limit)

    def open(self, reads: int = 1) -> None:
        for _ in range(reads):
            self._may_pass.release()

    async def until_read(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.read) < count:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)


async def test_caller_that_needs_many_pages_does_not_delay_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = MissedRevocations(database, lambda: _VALIDITY, _counting()[1])
    position = (await _beginning(database, 1)).position
    gate, now = Gate(monkeypatch), SystemClock().now()
    greedy = [
        asyncio.create_task(missed.page(WatchCursor(position, (now, key)), "greedy"))
        for key in range(10)
    ]
    await gate.until_read(2)
    # Even a page that the other one waits for, too.
    wanted = asyncio.create_task(missed.page(WatchCursor(position, (now, 9)), "modest"))
    await asyncio.sleep(0)
    gate.open()
    await gate.until_read(3)
    assert gate.read == [0, 1, 9]
    gate.open(10)
    await asyncio.gather(wanted, *greedy)
    # It was read once.
    assert sorted(gate.read) == list(range(10))


async def test_page_that_nobody_waits_for_any_more_is_not_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = MissedRevocations(database, lambda: _VALIDITY, _counting()[1])
    position = (await _beginning(database, 1)).position
    gate, now = Gate(monkeypatch), SystemClock().now()
    cursors = [WatchCursor(position, (now, key)) for key in range(50)]
    for _ in range(3):
        waiting = [asyncio.create_task(missed.page(cursor, "a")) for cursor in cursors]
        await gate.until_read(2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    # Who waits still, or again, gets it.
    again = asyncio.create_task(missed.page(cursors[7], "a"))
    gate.open(10)
    assert (await again).message == []
    assert gate.read == [0, 1, 7]


async def test_failed_read_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> revocations.Page:
        raise StoreUnavailable

    missed = MissedRevocations(database, lambda: _VALIDITY, _counting()[1])
    beginning = await _beginning(database, 1)
    with monkeypatch.context() as patch:
        patch.setattr(revocations, "read_page", fail)
        results = await asyncio.gather(
            missed.page(beginning, "a"), missed.page(beginning, "a"), return_exceptions=True
        )
        assert [type(result) for result in results] == [StoreUnavailable] * 2
    leaver = asyncio.create_task(missed.page(beginning, "a"))
    await asyncio.sleep(0)
    leaver.cancel()
    assert (await missed.page(beginning, "a")).message == ["0"]
