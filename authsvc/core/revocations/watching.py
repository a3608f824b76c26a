"""Owns the watching of revocations: what the process's reader of the log reads, sent to watchers.

A watcher is first sent what it has missed and then what is broadcast to all. Positions tell where
the one ends and the other begins: nothing is missed, but something may be sent twice.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.wakeups import Wakeups
from authsvc.core.revocations.broadcast import Broadcast, Sent
from authsvc.core.revocations.cursors import WatchCursor, read_watch_cursor, write_watch_cursor
from authsvc.core.revocations.missed import PAGE, MissedRevocations, WatchedRevocations
from authsvc.errors import CursorTooOld, FieldInvalid, Overloaded, Resource, StoreUnavailable
from authsvc.models.clock import Clock
from authsvc.models.revocations import LoggedRevocation
from authsvc.store.log_reading import Position
from authsvc.store.postgres.database import Database

# Seconds in which revocations are gathered, without one after which there is a sign of life, and
# without a read of the log after which watchers are told to go elsewhere.
_GATHER = 0.1
_HEARTBEAT = 0.25
_PATIENCE = 10.0
# The reader reads about as often by itself, and need not be asked to.
_EARLY = 0.05
# Seconds for which those who begin do so at the same position, so that they share pages.
_ORIGIN_AGE = 5.0


class RevocationWatch:
    """Lets callers watch revocations; `run` sends them what the process's reader passes on.

    `encode` makes a message, once for all watchers. `validity` returns how long a revocation can
    concern a token. `ring` lets the reader read soon.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        validity: Callable[[], timedelta],
        encode: Callable[[WatchedRevocations], Awaitable[bytes]],
        ring: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._validity = validity
        self._encode = encode
        self._ring = ring
        self._missed = MissedRevocations(database, self._validity, encode)
        self._broadcast: Broadcast[bytes] = Broadcast()
        self._origin: tuple[float, WatchCursor] | None = None
        # What the present read has passed on, and what has been read up to the position.
        self._reading: list[LoggedRevocation] = []
        self._read: list[LoggedRevocation] = []
        self._position: Position | None = None
        self._has_gap = True
        self._read_began = self._read_ended = float("-inf")
        self._sent = self._sent_revocations = float("-inf")
        self._watchers = 0
        self._is_watched, self._has_news = asyncio.Event(), asyncio.Event()
        self._reads, self._messages = Wakeups(), Wakeups()

    @property
    def watchers(self) -> int:
        """The number of watchers."""
        return self._watchers

    def on_revocation(self, revocation: LoggedRevocation) -> None:
        """Take a revocation from the reader."""
        if not revocation.cache_only:
            self._reading.append(revocation)

    def on_gap(self) -> None:
        """Note that the reader has missed some."""
        self._has_gap = True
        self._reading.clear()

    def on_position(self, position: Position, began: float) -> None:
        """Note up to where the reader has read, and when that read began."""
        self._position = position
        self._read_began, self._read_ended = began, elapsed()
        if self._has_gap or not self._watchers:
            self._has_gap = False
            self._read.clear()
            self._broadcast.restart(position)
            self._messages.wake()
        else:
            self._read += self._reading
        self._reading.clear()
        self._reads.wake()
        self._has_news.set()

    async def run(self) -> None:
        """Send what has been read, and signs of life, until cancelled."""
        while True:
            await self._is_watched.wait()
            now = elapsed()
            heartbeat_due = self._sent + _HEARTBEAT
            self._has_news.clear()
            if self._read:
                await asyncio.sleep(self._sent_revocations + _GATHER - now)
                await self._send()
            elif self._read_ended > self._sent and now >= heartbeat_due - _EARLY:
                await self._send()
            elif now < heartbeat_due:
                await self._wait_for_news(heartbeat_due - now)
            else:
                self._ring()
                if not await self._wait_for_news(_HEARTBEAT):
                    # The database doesn't answer, but the stream lives.
                    await self._send()

    async def watch(self, cursor: str, caller: str) -> AsyncGenerator[bytes, None]:
        """Yield what is revoked after a cursor, or all that still matters if it is empty.

        What was missed is read for one `caller` after the other.

        Raises:
            FieldInvalid: It is not a cursor.
            CursorTooOld: What followed it can't be read any more.
            Overloaded: This watcher is too slow.
            StoreUnavailable: The log can't be read.
        """
        arrived = elapsed()
        at = _parsed(cursor)
        with self._watched():
            position = await self._position_after(arrived)
            if at is None:
                at = self._beginning(position)
            elif (
                not _covers(position, at.position)
                or at.position.read_time < self._clock.now() - self._validity()
            ):
                raise CursorTooOld
            yield await self._sign_of_life(at, position)
            while at.catch_up:
                page = await self._missed.page(at, caller)
                at = page.cursor
                yield page.message
                if not at.catch_up and self._position:
                    yield await self._sign_of_life(at, self._position)
            while True:
                number = self._broadcast.find(at.position)
                if number is None:
                    page = await self._missed.page(at, caller)
                    at = page.cursor
                    yield page.message
                    continue
                async for message, reached in self._live(number, arrived):
                    at = WatchCursor(reached)
                    yield message

    async def _live(
        self, number: int, began: float
    ) -> AsyncGenerator[tuple[bytes, Position], None]:
        """Yield what is broadcast from a message on, until something is missing."""
        broadcast = self._broadcast
        while not broadcast.is_gap(number):
            if elapsed() - max(self._read_ended, began) > _PATIENCE:
                raise StoreUnavailable("The revocation log can't be read.")
            if number >= broadcast.end:
                await self._messages.wait()
                continue
            if number < broadcast.first:
                raise Overloaded(
                    "Revocations are read too slowly; continue with the last cursor.",
                    what=Resource.STREAMS,
                )
            sent = broadcast.get(number)
            number += 1
            # Of signs of life, the last one is enough.
            if sent.count or number == broadcast.end:
                yield sent.message, sent.reached

    async def _send(self) -> None:
        """Broadcast what has been read since the last message, or a sign of life."""
        rows, self._read = self._read, []
        begin, end = self._broadcast.position, self._position
        if begin is None or end is None:
            await asyncio.sleep(_HEARTBEAT)
            return
        number = self._broadcast.end
        try:
            messages = await self._encoded(rows, begin, end)
        except Exception:
            self._has_gap = True
            raise
        if self._broadcast.is_gap(number):
            return
        for sent in messages:
            self._broadcast.append(sent)
        self._sent = elapsed()
        if rows:
            self._sent_revocations = self._sent
        self._messages.wake()

    async def _encoded(
        self, rows: Sequence[LoggedRevocation], begin: Position, end: Position
    ) -> Sequence[Sent[bytes]]:
        """Return the messages from one position to another."""
        starts = range(0, len(rows) or 1, PAGE)
        messages = []
        for start in starts:
            part = rows[start : start + PAGE]
            reached = end if start == starts[-1] else begin
            message = await self._encode(self._watched_at(WatchCursor(reached), reached, part))
            messages.append(Sent(message, len(part), reached, end))
        return messages

    async def _sign_of_life(self, at: WatchCursor, position: Position) -> bytes:
        """Return a message to a watcher that the log has been read up to a position."""
        return await self._encode(self._watched_at(at, position))

    def _watched_at(
        self, at: WatchCursor, position: Position, rows: Sequence[LoggedRevocation] = ()
    ) -> WatchedRevocations:
        return WatchedRevocations(
            revocations=rows,
            cursor=write_watch_cursor(at),
            known_until=position.read_time,
            is_complete=at.catch_up is None and _covers(at.position, position),
            validity=self._validity(),
        )

    async def _position_after(self, arrived: float) -> Position:
        """Return the position of a read that begins later."""
        self._ring()
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._position is None or self._read_began < arrived:
                    await self._reads.wait()
        except TimeoutError:
            raise StoreUnavailable("The revocation log can't be read.") from None
        return self._position

    def _beginning(self, position: Position) -> WatchCursor:
        """Return the cursor of a watcher that knows nothing."""
        now = elapsed()
        taken, cursor = self._origin or (now, None)
        if cursor is None or now - taken > _ORIGIN_AGE or not _covers(position, cursor.position):
            oldest = self._clock.now() - self._validity()
            cursor = WatchCursor(position, (oldest, 0))
            self._origin = (now, cursor)
        return cursor

    async def _wait_for_news(self, seconds: float) -> bool:
        """Return whether the reader has read within this time."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_news.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watchers += 1
        self._is_watched.set()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._is_watched.clear()


def _covers(position: Position, other: Position) -> bool:
    return position.run_id == other.run_id and position.covers(other)


def _parsed(cursor: str) -> WatchCursor | None:
    try:
        return read_watch_cursor(cursor) if cursor else None
    except ValueError:
        raise FieldInvalid("cursor", "Not a cursor of this stream.") from None
