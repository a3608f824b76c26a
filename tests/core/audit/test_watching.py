"""Watching the audit log: each event once, late commits too, wherever a stream is continued."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from authsvc.core.audit import watching as module
from authsvc.core.audit.cursors import read_cursor, write_cursor
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.core.audit.watching import AuditWatch
from authsvc.core.lib.clock import SystemClock
from authsvc.errors import CursorTooOld, FieldInvalid, Overloaded, StoreUnavailable
from authsvc.models.audit import AuditFilter
from authsvc.models.calls import Call
from authsvc.store import audit
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.databases import opened
from tests.support.jobs import running

_ALL = AuditFilter()
# Only bounds a failing test.
_PATIENCE = 60.0


async def _write(connection: Connection, name: str) -> None:
    event = AuditEvent(AuditType.LOGOUT, Call(name, "test"))
    await audit.insert(connection, event_row(SystemClock().now(), event))


async def _commit(database: Database, *names: str) -> None:
    async with database.transaction() as connection:
        for name in names:
            await _write(connection, name)


class Stream:
    """A watcher, and what it has been sent."""

    def __init__(self, watch: AuditWatch, cursor: str, wanted: AuditFilter, caller: str) -> None:
        self.events = watch.watch(caller, wanted, cursor)
        self.cursor = cursor
        self.names: list[str] = []

    async def next(self) -> list[str]:
        events = await anext(self.events)
        self.cursor = events.cursor
        new = [row.call.request_id for row in events.rows]
        self.names += new
        return new

    async def read(self, count: int) -> list[str]:
        """Read until there are so many events in all."""
        async with asyncio.timeout(_PATIENCE):
            while len(self.names) < count:
                await self.next()
        return self.names


@asynccontextmanager
async def _streaming(
    watch: AuditWatch, cursor: str = "", wanted: AuditFilter = _ALL, caller: str = "siem"
) -> AsyncIterator[Stream]:
    stream = Stream(watch, cursor, wanted, caller)
    async with aclosing(stream.events):
        yield stream


@pytest.fixture
def idle(database: Database, monkeypatch: pytest.MonkeyPatch) -> AuditWatch:
    """A watch whose common reader doesn't run."""
    monkeypatch.setattr(module, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(module, "_STALENESS", timedelta(seconds=0.2))
    return AuditWatch(database, SystemClock(), timedelta(days=400))


@pytest_asyncio.fixture
async def watch(idle: AuditWatch) -> AsyncIterator[AuditWatch]:
    async with running(idle):
        yield idle


async def test_log_is_read_only_while_it_is_watched(
    watch: AuditWatch, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    follow = watch._follower.run

    async def noted() -> None:
        begun.set()
        try:
            await follow()
        finally:
            ended.set()

    monkeypatch.setattr(watch._follower, "run", noted)
    await _commit(database, "unwatched")
    assert not begun.is_set()
    for name in ("first", "second"):
        async with _streaming(watch) as stream:
            await stream.next()
            async with asyncio.timeout(_PATIENCE):
                await begun.wait()
            await _commit(database, name)
            assert await stream.read(1) == [name]
        async with asyncio.timeout(_PATIENCE):
            await ended.wait()
        begun.clear()
        ended.clear()


async def test_events_are_sent_once_as_they_are_committed(
    watch: AuditWatch, database: Database
) -> None:
    await _commit(database, "before")
    async with _streaming(watch) as stream:
        assert await stream.next() == []
        for number in range(5):
            await _commit(database, f"{number}a", f"{number}b")
            await stream.read(2 * number + 2)
        # A sign of life, without a repetition.
        assert await stream.next() == []
    assert sorted(stream.names) == sorted(f"{n}{c}" for n in range(5) for c in "ab")


@pytest.mark.parametrize("gap", [False, True], ids=["live", "continued"])
async def test_late_commit_is_sent(watch: AuditWatch, database: Database, gap: bool) -> None:
    """However long the transaction stays open while others commit, and across streams."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(_streaming(watch))
        await stream.next()
        async with database.transaction() as late:
            await _write(late, "late")
            await _commit(database, "early")
            assert await stream.read(1) == ["early"]
            await stream.next()
            if gap:
                await stream.events.aclose()
        if gap:
            stream = await stack.enter_async_context(_streaming(watch, stream.cursor))
            stream.names.append("early")
        assert await stream.read(2) == ["early", "late"]
        assert await stream.next() == []


async def test_stream_is_continued_in_pages_on_another_replica(
    watch: AuditWatch, database: Database, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    async with _streaming(watch) as stream:
        await stream.next()
        cursor = stream.cursor
    names = [str(number) for number in range(10)]
    await _commit(database, *names)
    async with opened(database_dsn) as other:
        there = AuditWatch(other, SystemClock(), timedelta(days=400))
        async with running(there):
            for _ in range(3):
                # Leaves after each page, and goes on from its cursor.
                async with _streaming(there, cursor) as stream:
                    page = await stream.next()
                    cursor = stream.cursor
                assert page == names[:3]
                names = names[3:]
            async with _streaming(there, cursor) as stream:
                await _commit(database, "new")
                assert await stream.read(2) == ["9", "new"]


async def test_nothing_is_lost_or_repeated_while_events_are_committed_all_the_time(
    watch: AuditWatch, database: Database, database_dsn: str
) -> None:
    """Where catching up ends and the common reader goes on, with transactions of all lengths."""
    async with _streaming(watch) as first:
        await first.next()
        cursor = first.cursor
    names: list[str] = []

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(database_dsn)
        try:
            for number in range(20):
                async with connection.transaction():
                    name = f"{writer}-{number}"
                    await _write(connection, name)
                    await asyncio.sleep(writer * 0.005)
                names.append(name)
        finally:
            await connection.close()

    async def follow() -> list[str]:
        async with _streaming(watch, cursor, caller=str(uuid4())) as stream:
            return await stream.read(80)

    async def hop() -> list[str]:
        """Continue on another stream after each response."""
        seen: list[str] = []
        at = cursor
        while len(seen) < 80:
            async with _streaming(watch, at, caller="hop") as stream:
                await stream.next()
                await stream.next()
            seen += stream.names
            at = stream.cursor
        return seen

    async with asyncio.timeout(_PATIENCE):
        writing = asyncio.gather(*(write(writer) for writer in range(4)))
        read = await asyncio.gather(follow(), hop(), follow())
        await writing
    for each in read:
        assert sorted(each) == sorted(names)


async def test_filter_holds_for_both_halves(watch: AuditWatch, database: Database) -> None:
    async with _streaming(watch) as stream:
        await stream.next()
    await _commit(database, "a", "b", "a")
    async with _streaming(watch, stream.cursor, AuditFilter(request_id="a")) as filtered:
        await filtered.read(2)
        await _commit(database, "b", "a")
        assert await filtered.read(3) == ["a", "a", "a"]


async def test_slow_reader_is_told_to_continue(
    watch: AuditWatch, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 10)
    async with _streaming(watch) as slow, _streaming(watch, caller="other") as quick:
        for stream in (slow, quick):
            # Until it is served by the common reader, which may have to begin first.
            async with asyncio.timeout(_PATIENCE):
                while not watch._follower.is_fresh():
                    await stream.next()
            for _ in range(6):
                assert await stream.next() == []
        for number in range(3):
            await _commit(database, *(f"{number}{index}" for index in range(4)))
            await quick.read(4 * number + 4)
        with pytest.raises(Overloaded):
            await slow.next()
    async with _streaming(watch, slow.cursor) as again:
        assert sorted(await again.read(12)) == sorted(quick.names)


async def test_streams_are_bounded_for_each_caller_and_places_are_given_back(
    watch: AuditWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_PER_CALLER", 2)
    monkeypatch.setattr(module, "_MAX_WATCHERS", 3)
    for _ in range(2):
        async with AsyncExitStack() as stack:
            for caller, fits in (("a", True), ("a", True), ("a", False), ("b", True), ("c", False)):
                stream = await stack.enter_async_context(_streaming(watch, caller=caller))
                if fits:
                    await stream.next()
                else:
                    with pytest.raises(Overloaded):
                        await stream.next()
    assert not watch._watchers


async def test_cursor_that_cannot_be_continued_is_refused(
    watch: AuditWatch, database: Database
) -> None:
    async with _streaming(watch) as stream:
        await stream.next()
    position = read_cursor(stream.cursor)
    for other in (
        replace(position, run_id=uuid4()),
        replace(position, xmax=position.xmax + 1_000_000),
        replace(position, read_time=position.read_time - timedelta(days=31)),
    ):
        async with _streaming(watch, write_cursor(other)) as refused:
            with pytest.raises(CursorTooOld):
                await refused.next()
    old = replace(position, read_time=position.read_time - timedelta(days=2))
    brief = AuditWatch(database, SystemClock(), timedelta(days=1))
    async with _streaming(brief, write_cursor(old)) as refused:
        with pytest.raises(CursorTooOld):
            await refused.next()
    async with _streaming(watch, "x" + stream.cursor) as refused:
        with pytest.raises(FieldInvalid):
            await refused.next()


async def test_new_run_of_the_server_ends_streams(watch: AuditWatch, database: Database) -> None:
    """A crash or a failover: what happened meanwhile has to be listed."""
    async with _streaming(watch) as stream:
        await stream.next()
        async with database.connection() as connection:
            await connection.execute("TRUNCATE server_runs")
        with pytest.raises(CursorTooOld):
            await stream.read(1)


async def test_stream_ends_when_the_log_is_not_read(
    idle: AuditWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    async with _streaming(idle) as stream:
        assert await stream.next() == []
        assert await stream.next() == []
        with pytest.raises(StoreUnavailable):
            await stream.read(1)
