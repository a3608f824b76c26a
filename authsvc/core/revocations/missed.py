"""Owns what watchers have missed: pages of the revocation log, each read once for all who need it.

Many watchers need the same pages, as they begin together, or lost the same stream. Callers take
turns, as one of them may need many pages that nobody else does.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from authsvc.core.revocations.cursors import WatchCursor, write_watch_cursor
from authsvc.errors import CursorTooOld
from authsvc.models.revocations import LoggedRevocation
from authsvc.store import revocations as store
from authsvc.store.log_reading import read_log
from authsvc.store.postgres.database import Database

# Revocations in a message.
PAGE = 1_000
# Reads at a time, of each caller and in all, and pages of catch-ups that are kept for those who
# come a little later.
_MAX_READS = 2
_MAX_KEPT = 16

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class WatchedRevocations:
    """What watchers are sent: revocations, and where to go on after them.

    A revocation concerns tokens for at least `validity` from its time on. If `is_complete`,
    everything acknowledged before `known_until` has been sent.
    """

    revocations: Sequence[LoggedRevocation]
    cursor: str
    known_until: datetime
    is_complete: bool
    validity: timedelta


@dataclass(frozen=True, slots=True)
class MissedPage(Generic[Message]):
    """A message, and where a watcher is that has been sent it."""

    message: Message
    cursor: WatchCursor


class _Reading(Generic[Message]):
    """A page that is read, or waits for that; `waiting` counts those who need it."""

    task: asyncio.Task[MissedPage[Message]]

    def __init__(self) -> None:
        self.waiting = 0
        self.has_begun = False


class MissedRevocations(Generic[Message]):
    """Reads pages from cursors on; `encode` makes messages of them."""

    def __init__(
        self,
        database: Database,
        validity: Callable[[], timedelta],
        encode: Callable[[WatchedRevocations], Awaitable[Message]],
    ) -> None:
        self._database = database
        self._validity = validity
        self._encode = encode
        self._places = asyncio.Semaphore(_MAX_READS)
        self._places_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._reading: dict[tuple[str, WatchCursor], _Reading[Message]] = {}
        self._kept: OrderedDict[WatchCursor, MissedPage[Message]] = OrderedDict()

    async def page(self, cursor: WatchCursor, caller: str) -> MissedPage[Message]:
        """Return the page after a cursor, which is read as soon as it is the caller's turn.

        Raises:
            CursorTooOld: It can't be read any more.
            StoreUnavailable: The log can't be read.
        """
        if page := self._find(cursor):
            return page
        key = caller, cursor
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = _Reading()
            reading.task = asyncio.create_task(self._read_in_turn(reading, cursor, caller))
            reading.task.add_done_callback(partial(self._finish, key, reading))
        reading.waiting += 1
        try:
            return await asyncio.shield(reading.task)
        finally:
            reading.waiting -= 1
            if not reading.waiting and not reading.has_begun:
                # Whoever goes away and comes back again and again must not fill the queue.
                reading.task.cancel()
                self._forget(key, reading)

    def _find(self, cursor: WatchCursor) -> MissedPage[Message] | None:
        """Return the page if it is kept.

        Whenever it was read after the cursor's position, it holds what that position knows.
        """
        page = self._kept.get(cursor)
        if page:
            self._kept.move_to_end(cursor)
        return page

    def _finish(
        self,
        key: tuple[str, WatchCursor],
        reading: "_Reading[Message]",
        task: asyncio.Task[MissedPage[Message]],
    ) -> None:
        self._forget(key, reading)
        # Looked at in any case, as all who waited may be gone.
        failed = task.cancelled() or task.exception()
        _, cursor = key
        if cursor.catch_up and not failed:
            self._kept[cursor] = task.result()
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)

    def _forget(self, key: tuple[str, WatchCursor], reading: "_Reading[Message]") -> None:
        if self._reading.get(key) is reading:
            del self._reading[key]

    async def _read_in_turn(
        self, reading: "_Reading[Message]", cursor: WatchCursor, caller: str
    ) -> MissedPage[Message]:
        own = self._places_of.setdefault(caller, asyncio.Semaphore(_MAX_READS))
        async with own, self._places:
            reading.has_begun = True
            return self._find(cursor) or await self._read(cursor)

    async def _read(self, cursor: WatchCursor) -> MissedPage[Message]:
        if cursor.catch_up:
            rows, reached, is_complete = await self._read_place(cursor, cursor.catch_up)
        else:
            rows, reached, is_complete = await self._read_log(cursor)
        message = await self._encode(
            WatchedRevocations(
                revocations=rows,
                cursor=write_watch_cursor(reached),
                known_until=reached.position.read_time,
                is_complete=is_complete,
                validity=self._validity(),
            )
        )
        return MissedPage(message, reached)

    async def _read_place(
        self, cursor: WatchCursor, place: store.Place
    ) -> tuple[Sequence[LoggedRevocation], WatchCursor, bool]:
        async with self._database.connection(self) as connection:
            page = await store.read_page(connection, place, PAGE)
        return page.rows, WatchCursor(cursor.position, page.next_place), False

    async def _read_log(
        self, cursor: WatchCursor
    ) -> tuple[Sequence[LoggedRevocation], WatchCursor, bool]:
        async with self._database.connection(self) as connection:
            read = await read_log(connection, store.LOG, cursor.position, PAGE)
        if read.rows is None:
            raise CursorTooOld
        rows = [row for row in read.rows if not row.cache_only]
        return rows, WatchCursor(read.position), read.is_complete
