"""Owns the watching of the audit log: one reader for a process, while anybody watches.

A watcher reads by itself up to the present and is then served by the reader of all. Where the one
ends and the other begins, positions tell which events it has: none is missed or sent twice.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from authsvc.core.audit.cursors import read_cursor, write_cursor
from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.log_follower import LogFollower
from authsvc.errors import CursorTooOld, FieldInvalid, Overloaded, Resource, StoreUnavailable
from authsvc.models.audit import AuditFilter, AuditRow
from authsvc.models.clock import Clock
from authsvc.store.audit import LOG
from authsvc.store.log_reading import Position, read_log
from authsvc.store.postgres.database import Database

_STALENESS = timedelta(seconds=1)
# Seconds without an event after which a watcher gets a sign of life, and those without a read of
# the log after which it is told to go elsewhere.
_HEARTBEAT = 1.0
_PATIENCE = 10.0
# Events in one response, and those that wait for a slow watcher.
_PAGE = 200
_MAX_WAITING = 10_000
_MAX_WATCHERS, _MAX_PER_CALLER = 64, 8


@dataclass(frozen=True, slots=True)
class WatchedEvents:
    """What a watcher is sent: events, and where to go on after them.

    Every event committed before `known_until` has been sent.
    """

    rows: Sequence[AuditRow]
    cursor: str
    known_until: datetime


class _Watcher:
    """What has been read for one watcher and not been sent yet."""

    def __init__(self, wanted: AuditFilter) -> None:
        self._wanted = wanted
        self.rows: list[AuditRow] = []
        self.position: Position | None = None
        self.has_gap = self.is_too_slow = False
        self._collects = False
        self.news = asyncio.Event()

    def offer(self, rows: Sequence[AuditRow], position: Position) -> None:
        if not self._collects:
            return
        self.rows.extend(row for row in rows if self._wanted.matches(row))
        self.position = position
        if len(self.rows) > _MAX_WAITING:
            self.rows.clear()
            self.is_too_slow = True
        if self.rows or self.is_too_slow:
            self.news.set()

    def note_gap(self) -> None:
        self.has_gap = True
        self.news.set()

    def pause(self) -> None:
        """Forget what was offered, and take no more: the watcher reads by itself."""
        self._collects = False
        self.rows.clear()

    def begin(self) -> None:
        """Take what is offered from now on."""
        self._collects = True
        self.position, self.has_gap = None, False
        self.news.clear()

    def take(self) -> Sequence[AuditRow]:
        rows, self.rows = self.rows, []
        self.news.clear()
        return rows


class AuditWatch:
    """Lets callers watch the audit log; `run` reads it for all of them."""

    def __init__(self, database: Database, clock: Clock, retention: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        self._watchers: dict[_Watcher, str] = {}
        self._read: list[AuditRow] = []
        self._follower = LogFollower(
            database=database,
            source=LOG,
            staleness=_STALENESS,
            on_event=self._read.append,
            on_gap=self._on_gap,
            on_position=self._on_position,
            in_pages=True,
        )
        self._is_watched, self._is_unwatched = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Read the log while there are watchers, until cancelled; otherwise it costs nothing."""
        while True:
            await self._is_watched.wait()
            # Not in a TaskGroup: in Python 3.11 it can swallow the cancellation while it ends.
            reading = asyncio.create_task(self._follower.run())
            unwatched = asyncio.create_task(self._is_unwatched.wait())
            try:
                await asyncio.wait((reading, unwatched), return_when=asyncio.FIRST_COMPLETED)
            finally:
                unwatched.cancel()
                reading.cancel()
                [outcome, _] = await asyncio.gather(reading, unwatched, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome
            # The next watchers need nothing of what is committed until they come.
            self._follower.forget()

    async def watch(
        self, caller: str, wanted: AuditFilter, cursor: str
    ) -> AsyncGenerator[WatchedEvents, None]:
        """Yield the events committed after a cursor, or from now on if it is empty, without end.

        Raises:
            FieldInvalid: It is not a cursor.
            CursorTooOld: What followed it can't be read any more.
            Overloaded: There are too many watchers, or this one is too slow.
            StoreUnavailable: The log can't be read.
        """
        position = _parsed(cursor)
        with self._watcher(caller, wanted) as watcher:
            while True:
                # Once, however long it takes, and again for what was committed in the meantime.
                for prepare in (watcher.pause, watcher.begin):
                    prepare()
                    async with aclosing(self._catch_up(wanted, position)) as read:
                        async for events, reached in read:
                            position = reached
                            yield events
                assert position is not None  # noqa: S101 - catching up ends with one
                async with aclosing(self._live(watcher, position)) as read:
                    async for events, reached in read:
                        position = reached
                        yield events

    async def _catch_up(
        self, wanted: AuditFilter, position: Position | None
    ) -> AsyncGenerator[tuple[WatchedEvents, Position], None]:
        """Read to the end, from a position, if there is one."""
        is_complete = False
        while not is_complete:
            if position and position.read_time < self._clock.now() - self._retention:
                raise CursorTooOld
            async with self._database.connection() as connection:
                read = await read_log(connection, LOG, position, _PAGE)
            if position and read.rows is None:
                raise CursorTooOld
            position, is_complete = read.position, read.is_complete
            rows = [row for row in read.rows or () if wanted.matches(row)]
            yield _events(rows, position), position

    async def _live(
        self, watcher: _Watcher, position: Position
    ) -> AsyncGenerator[tuple[WatchedEvents, Position], None]:
        """Pass on what the common reader has read, until it misses something."""
        held: list[AuditRow] = []
        beginning: Position | None = position
        began = elapsed()
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await watcher.news.wait()
            except TimeoutError:
                # The reader may have begun with this watcher.
                if min(self._follower.age(), elapsed() - began) > _PATIENCE:
                    raise StoreUnavailable("The audit log can't be read.") from None
            if watcher.is_too_slow:
                raise Overloaded(
                    "Events are read too slowly; continue with the last cursor.",
                    what=Resource.STREAMS,
                )
            if watcher.has_gap:
                return
            reached = watcher.position
            held += (row for row in watcher.take() if not position.knows(row.transaction_id))
            if beginning:
                # The common reader may still be behind what this watcher has read by itself.
                if reached is None or not reached.covers(beginning):
                    yield _events([], position), position
                    continue
                beginning = None
            if reached is None:
                continue
            for start in range(0, len(held) - _PAGE, _PAGE):
                yield _events(held[start : start + _PAGE], position), position
            rest = held[(len(held) - 1) // _PAGE * _PAGE :] if held else []
            held, position = [], reached
            yield _events(rest, position), position

    @contextmanager
    def _watcher(self, caller: str, wanted: AuditFilter) -> Iterator[_Watcher]:
        each = Counter(self._watchers.values())
        if len(self._watchers) >= _MAX_WATCHERS or each[caller] >= _MAX_PER_CALLER:
            raise Overloaded("Too many streams watch the audit log.", what=Resource.STREAMS)
        watcher = _Watcher(wanted)
        self._watchers[watcher] = caller
        self._is_unwatched.clear()
        self._is_watched.set()
        try:
            yield watcher
        finally:
            del self._watchers[watcher]
            if not self._watchers:
                self._is_watched.clear()
                self._is_unwatched.set()

    def _on_position(self, position: Position, _began: float) -> None:
        rows = list(self._read)
        self._read.clear()
        for watcher in self._watchers:
            watcher.offer(rows, position)

    def _on_gap(self) -> None:
        self._read.clear()
        for watcher in self._watchers:
            watcher.note_gap()


def _parsed(cursor: str) -> Position | None:
    try:
        return read_cursor(cursor) if cursor else None
    except ValueError:
        raise FieldInvalid("cursor", "Not a cursor of this stream.") from None


def _events(rows: Sequence[AuditRow], position: Position) -> WatchedEvents:
    return WatchedEvents(rows, write_cursor(position), position.read_time)
