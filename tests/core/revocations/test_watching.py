"""Watching revocations: nothing is missed, wherever a stream is continued and whoever is slow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.revocations import broadcast, missed, watching
from authsvc.core.revocations.cursors import WatchCursor, read_watch_cursor, write_watch_cursor
from authsvc.core.revocations.missed import WatchedRevocations
from authsvc.core.revocations.watching import RevocationWatch
from authsvc.errors import CursorTooOld, FieldInvalid, Overloaded, StoreUnavailable
from authsvc.models.revocations import LoggedRevocation
from authsvc.store import revocations
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.databases import opened
from tests.support.jobs import running

_VALIDITY = timedelta(hours=1)
# Only bounds a failing test.
_PATIENCE = 60.0


async def _append(connection: Connection, *names: str, age: timedelta = timedelta()) -> None:
    for name in names:
        await revocations.append(connection, SystemClock().now() - age, key_id=name)


async def _revoke(database: Database, *names: str, age: timedelta = timedelta()) -> None:
    async with database.transaction() as connection:
        await _append(connection, *names, age=age)


class Replica:
    """A watch, the reader that feeds it, and how many messages were encoded."""

    def __init__(self, database: Database, staleness: float = 1.0) -> None:
        self.messages: list[WatchedRevocations] = []
        self.watch = RevocationWatch(
            database=database,
            clock=SystemClock(),
            validity=lambda: _VALIDITY,
            encode=self._encode,
            ring=lambda: self.reader.ring(),  # noqa: PLW0108 - there is none yet
        )
        self.reader: LogFollower[LoggedRevocation] = LogFollower(
            database=database,
            source=revocations.LOG,
            staleness=timedelta(seconds=staleness),
            on_event=self.watch.on_revocation,
            on_gap=self.watch.on_gap,
            on_position=self.watch.on_position,
        )

    @property
    def encoded(self) -> int:
        return len(self.messages)

    async def _encode(self, message: WatchedRevocations) -> bytes:
        self.messages.append(message)
        return b"%d" % (len(self.messages) - 1)


class Stream:
    """A watcher, and what it has been sent."""

    def __init__(self, replica: Replica, cursor: str) -> None:
        self._replica = replica
        self.messages = replica.watch.watch(cursor, "a")
        self.cursor = cursor
        self.names: list[str] = []

    async def next(self) -> WatchedRevocations:
        async with asyncio.timeout(_PATIENCE):
            message = self._replica.messages[int(await anext(self.messages))]
        self.cursor = message.cursor
        self.names += [revocation.id for revocation in message.revocations]
        return message

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.next()

    async def read(self, *names: str) -> None:
        """Read until these have been sent, at least once each."""
        await self.until(lambda: set(names) <= set(self.names))

    async def complete(self) -> WatchedRevocations:
        """Read until nothing is missing."""
        while not (message := await self.next()).is_complete:
            pass
        return message


@asynccontextmanager
async def _watching(replica: Replica, cursor: str = "") -> AsyncIterator[Stream]:
    stream = Stream(replica, cursor)
    async with aclosing(stream.messages):
        yield stream


@asynccontextmanager
async def _serving(replica: Replica) -> AsyncIterator[Replica]:
    async with running(replica.reader, replica.watch):
        yield replica


@pytest_asyncio.fixture
async def replica(database: Database) -> AsyncIterator[Replica]:
    async with _serving(Replica(database)) as replica:
        yield replica


async def test_watcher_begins_with_all_that_still_matters(
    replica: Replica, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed, "PAGE", 3)
    names = [str(number) for number in range(10)]
    await _revoke(database, "expired", age=_VALIDITY + timedelta(minutes=2))
    await _revoke(database, *names)
    async with _watching(replica) as stream:
        first = await stream.next()
        assert (first.revocations, first.is_complete) == ((), False)
        sizes = []
        while not (message := await stream.next()).is_complete:
            sizes.append(len(message.revocations))
        assert sizes == [3, 3, 3, 1]
        assert stream.names == names
        await _revoke(database, "new")
        await stream.read("new")
        assert stream.names == [*names, "new"]


async def test_each_catch_up_page_can_be_resumed_on_another_replica(
    database: Database, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others are revoked, whose transactions end in another order."""
    monkeypatch.setattr(missed, "PAGE", 2)
    await _revoke(database, *(f"old{number}" for number in range(7)))
    async with opened(database_dsn) as other, AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(_serving(Replica(d))) for d in (database, other)
        ]
        names: set[str] = set()
        cursor = ""
        async with database.transaction() as late:
            await _append(late, "late")
            for number in range(6):
                async with _watching(replicas[number % 2], cursor) as stream:
                    await stream.next()
                    await stream.next()
                    names |= set(stream.names)
                    cursor = stream.cursor
                await _revoke(database, f"new{number}")
            assert "late" not in names
        async with _watching(replicas[0], cursor) as stream:
            await stream.until(lambda: len(names | set(stream.names)) == 14)


async def test_what_only_concerns_caches_is_not_sent(replica: Replica, database: Database) -> None:
    async def revoke(name: str) -> None:
        async with database.transaction() as connection:
            await revocations.append(
                connection, SystemClock().now(), key_id=f"{name}-cached", cache_only=True
            )
            await _append(connection, name)

    await revoke("first")
    async with _watching(replica) as stream:
        await stream.complete()
        cursor = stream.cursor
        await revoke("second")
        await stream.read("second")
        assert stream.names == ["first", "second"]
    await _read_once(replica)
    async with _watching(replica, cursor) as stream:
        await stream.complete()
        assert stream.names == ["second"]


async def test_message_is_encoded_once_for_all(replica: Replica, database: Database) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(_watching(replica)) for _ in range(50)]
        await asyncio.gather(*(stream.complete() for stream in streams))
        before = replica.encoded
        await _revoke(database, "a", "b")
        await asyncio.gather(*(stream.read("a", "b") for stream in streams))
        # And perhaps some signs of life.
        assert replica.encoded - before < len(streams)


async def test_late_commit_is_sent(replica: Replica, database: Database) -> None:
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(_watching(replica))
        await stream.complete()
        async with database.transaction() as late:
            await _append(late, "late")
            await _revoke(database, "early")
            await stream.read("early")
            await stream.messages.aclose()
            # The broadcast knows nothing of it once nobody watches.
            await _read_once(replica)
            other = await stack.enter_async_context(_watching(replica, stream.cursor))
            await other.complete()
            assert other.names == []
        await other.read("late")


async def _read_once(replica: Replica) -> None:
    """Wait until the log has been read once more."""
    began = replica.watch._read_ended
    replica.reader.ring()
    async with asyncio.timeout(_PATIENCE):
        while replica.watch._read_ended == began:
            await replica.watch._reads.wait()


async def test_nothing_is_lost_while_much_is_revoked(
    replica: Replica, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where catching up ends and the broadcast goes on, with transactions of all lengths."""
    monkeypatch.setattr(missed, "PAGE", 5)
    monkeypatch.setattr(watching, "PAGE", 5)
    monkeypatch.setattr(watching, "_GATHER", 0.01)
    names: list[str] = []

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(database_dsn)
        try:
            for number in range(20):
                async with connection.transaction():
                    name = f"{writer}-{number}"
                    await _append(connection, name)
                    await asyncio.sleep(writer * 0.005)
                names.append(name)
                replica.reader.ring()
        finally:
            await connection.close()

    async def follow() -> set[str]:
        async with _watching(replica) as stream:
            await stream.until(lambda: len(set(stream.names)) == 80)
            return set(stream.names)

    async def hop() -> set[str]:
        """Continue on another stream after a few responses."""
        seen: set[str] = set()
        at = ""
        while len(seen) < 80:
            async with _watching(replica, at) as stream:
                for _ in range(3):
                    await stream.next()
                # Several messages may lead to the next cursor.
                await stream.until(lambda before=at: stream.cursor != before)  # type: ignore[misc]
            seen |= set(stream.names)
            at = stream.cursor
        return seen

    async with asyncio.timeout(_PATIENCE):
        read, _ = await asyncio.gather(
            asyncio.gather(follow(), hop(), follow()),
            asyncio.gather(*(write(writer) for writer in range(4))),
        )
    assert all(each == set(names) for each in read)


async def test_gap_of_the_reader_is_read_by_its_watchers_once(
    replica: Replica, database: Database
) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(_watching(replica)) for _ in range(20)]
        await asyncio.gather(*(stream.complete() for stream in streams))
        # All are where the last message ends.
        await asyncio.gather(*(stream.next() for stream in streams))
        before = replica.encoded
        async with database.transaction() as connection:
            await _append(connection, "missed")
            replica.reader.forget()
        await asyncio.gather(*(stream.read("missed") for stream in streams))
        assert replica.encoded - before < len(streams)
        await _revoke(database, "next")
        await asyncio.gather(*(stream.read("next") for stream in streams))


async def test_known_time_is_later_than_the_request(replica: Replica, database: Database) -> None:
    async with database.connection() as connection, _watching(replica) as stream:
        for _ in range(2):
            before = await connection.fetchval("SELECT clock_timestamp()")
            async with _watching(replica, stream.cursor) as again:
                assert (await again.next()).known_until > before
            await stream.complete()


async def test_slow_watcher_is_told_to_resume(
    replica: Replica, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "_MAX_REVOCATIONS", 10)
    async with _watching(replica) as slow, _watching(replica) as quick:
        for stream in (slow, quick):
            await stream.complete()
            # By now it is sent what is broadcast.
            await stream.next()
        names = [str(number) for number in range(30)]
        for name in names:
            await _revoke(database, f"{name}a", f"{name}b")
            await quick.read(f"{name}a", f"{name}b")
        with pytest.raises(Overloaded):
            await slow.until(lambda: False)
    async with _watching(replica, slow.cursor) as again:
        await again.until(lambda: set(quick.names) == {*slow.names, *again.names})


async def test_cursor_that_cannot_be_continued_is_refused(
    replica: Replica, database: Database
) -> None:
    async with _watching(replica) as stream:
        await stream.complete()
    position = read_watch_cursor(stream.cursor).position
    place = (SystemClock().now(), 1)
    for other in (
        replace(position, run_id=uuid4()),
        replace(position, xmax=position.xmax + 1_000_000),
        replace(position, read_time=position.read_time - _VALIDITY - timedelta(minutes=2)),
    ):
        for catch_up in (None, place):
            async with _watching(
                replica, write_watch_cursor(WatchCursor(other, catch_up))
            ) as refused:
                with pytest.raises(CursorTooOld):
                    await refused.next()
    async with _watching(replica, "x" + stream.cursor) as refused:
        with pytest.raises(FieldInvalid):
            await refused.next()


@pytest.mark.parametrize("catching_up", [False, True])
async def test_new_run_of_the_server_ends_streams(
    replica: Replica, database: Database, monkeypatch: pytest.MonkeyPatch, catching_up: bool
) -> None:
    """A crash or a failover: watchers begin again."""
    monkeypatch.setattr(missed, "PAGE", 1)
    await _revoke(database, "a", "b", "c")
    async with _watching(replica) as stream:
        await stream.next()
        if not catching_up:
            await stream.complete()
        async with database.connection() as connection:
            await connection.execute("TRUNCATE server_runs")
        with pytest.raises(CursorTooOld):
            await stream.until(lambda: False)
    async with _watching(replica) as again:
        await again.complete()
        assert again.names == ["a", "b", "c"]


async def test_stream_lives_on_while_the_log_is_not_read_and_ends_after_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(database)
    async with running(replica.watch):
        async with running(replica.reader):
            stream = Stream(replica, "")
            last = await stream.complete()
            last = await stream.next()
        async with aclosing(stream.messages):
            for _ in range(2):
                message = await stream.next()
                assert message.known_until >= last.known_until
                assert not message.revocations
            monkeypatch.setattr(watching, "_PATIENCE", 0.2)
            with pytest.raises(StoreUnavailable):
                await stream.until(lambda: False)
        async with _watching(replica) as refused:
            with pytest.raises(StoreUnavailable):
                await refused.next()
    assert replica.watch.watchers == 0


async def test_signs_of_life_are_fresh_however_seldom_caches_need_the_log(
    database: Database,
) -> None:
    async with (
        _serving(Replica(database, staleness=3_600)) as replica,
        _watching(replica) as stream,
    ):
        times = [(await stream.complete()).known_until]
        times += [(await stream.next()).known_until for _ in range(3)]
        assert times == sorted(set(times))


async def test_first_revocation_is_sent_at_once_and_later_ones_are_gathered(
    replica: Replica, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_GATHER", 3_600)
    async with _watching(replica) as stream:
        await stream.complete()
        await _revoke(database, "first")
        await stream.read("first")
        await _revoke(database, "second")
        await _read_once(replica)
        await _revoke(database, "third")
        await _read_once(replica)
        assert [row.id for row in replica.watch._read] == ["second", "third"]


async def test_failure_to_encode_loses_nothing(replica: Replica, database: Database) -> None:
    async with _watching(replica) as stream:
        await stream.complete()
        encode, fails = replica.watch._encode, True

        async def fail_once(message: WatchedRevocations) -> bytes:
            nonlocal fails
            if fails and message.revocations:
                fails = False
                raise RuntimeError
            return await encode(message)

        replica.watch._encode = fail_once
        await _revoke(database, "lost")
        await stream.read("lost")
