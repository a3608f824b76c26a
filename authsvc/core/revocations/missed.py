"""Owns what watchers have missed: pages of the revocation log, each read once for all who need it.

Many watchers need the same pages, as they begin together, or lost the same stream.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from authsvc.core.revocations.cursors import WatchCursor, write_watch_cursor
from authsvc.errors import CursorTooOld
from authsvc.models.revocations import LoggedRevocation
from authsvc.store import revocations as store
from authsvc.store.log_reading import read_log
from authsvc.store.postgres.database import Database

# Revocations in a message.
PAGE = 1_000
# Reads at a time, and pages of catch-ups that are kept for those who come a little later.
_MAX_READS = 2
_MAX_KEPT = 16

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class WatchedRevocations:
    """What watchers are sent: revocations, and where to go on after them.

    A revocation concerns tokens for `validity` from its time on. If `is_complete`, everything
    acknowledged before `known_until` has been sent.
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
        self._reading: dict[Hashable, asyncio.Task[MissedPage[Message]]] = {}
        self._kept: OrderedDict[WatchCursor, MissedPage[Message]] = OrderedDict()

    async def page(self, cursor: WatchCursor) -> MissedPage[Message]:
        """Return the page after a cursor.

        Raises:
            CursorTooOld: It can't be read any more.
            StoreUnavailable: The log can't be read.
        """
        # Whenever it is read after the cursor's position, it holds what that position knows.
        if page := self._kept.get(cursor):
            self._kept.move_to_end(cursor)
            return page
        reading = self._reading.get(cursor)
        if reading is None:
            reading = self._reading[cursor] = asyncio.create_task(self._read(cursor))
            reading.add_done_callback(lambda task: self._finish(cursor, task))
        return await asyncio.shield(reading)

    def _finish(self, cursor: WatchCursor, reading: asyncio.Task[MissedPage[Message]]) -> None:
        del self._reading[cursor]
        # Looked at in any case, as all who waited may be gone.
        failed = reading.cancelled() or reading.exception()
        if cursor.catch_up and not failed:
            self._kept[cursor] = reading.result()
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)

    async def _read(self, cursor: WatchCursor) -> MissedPage[Message]:
        async with self._places:
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
