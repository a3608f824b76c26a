"""Owns the follower of a log: what was committed to it, and whether all of it is known."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

import structlog

from authsvc.core.lib.clock import ClockSample, elapsed
from authsvc.core.lib.jitter import JITTER
from authsvc.errors import StoreUnavailable
from authsvc.store.log_reading import Log, LogConnection, Position
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

Row = TypeVar("Row")

# Rows in one read.
_LIMIT = 2_000
# Passed on before other work gets its turn.
_SLICE = 200
# Seconds between the beginnings of two reads, however often the doorbell rings.
_SPACING = 0.01
# After so many seconds without a read it begins anew, long before rows may have been removed.
_LONGEST_GAP = 60.0
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 2.0


def _ignore(*_values: object) -> None:
    """Ignore the values."""


class LogFollower(Generic[Row]):
    """Passes on each row that is committed to a log, and knows whether any can be missing.

    `on_event` is called once for each row, and `on_gap` whenever some may have been missed: also at
    the beginning, unless it goes on from a `position`. What was derived from rows until then must
    be dropped; the result of a look-up that began before either call must not be cached after it.

    While `is_fresh()`, every row acknowledged more than `staleness` ago has been passed on. The log
    is read at each `ring`, and in any case every quarter of `staleness`. `observe` gets the
    database's time of each read, and `on_position` the position up to which all has been passed on,
    with the time, in seconds of `elapsed()`, at which its read began.

    When much has been missed, dropping everything costs less than reading it: more than one read
    holds, or more than a minute, is a gap. With `in_pages`, all of it is read, however much and
    however long ago; a gap is then only what can't be read: the server's run has ended (a crash, a
    failover), or the position is older than the log allows.
    """

    def __init__(  # noqa: PLR0913 - keywords only, half of them optional
        self,
        *,
        database: Database,
        source: Log[Row],
        staleness: timedelta,
        on_event: Callable[[Row], None],
        on_gap: Callable[[], None],
        observe: Callable[[ClockSample], None] = _ignore,
        on_position: Callable[[Position, float], None] = _ignore,
        position: Position | None = None,
        in_pages: bool = False,
    ) -> None:
        self._database = database
        self._source = source
        self._staleness = staleness.total_seconds()
        self._on_event = on_event
        self._on_gap = on_gap
        self._observe = observe
        self._on_position = on_position
        self._position = position
        self._in_pages = in_pages
        self._complete_until = float("-inf")
        self._losses = 0
        self._connection: LogConnection | None = None
        self._rung = asyncio.Event()
        self._backoff = _FIRST_BACKOFF
        self._last_logged = ""
        database.on_leave(self.forget)

    def is_fresh(self) -> bool:
        """Return whether no row older than `staleness` can have been missed."""
        return self.age() <= self._staleness

    def age(self) -> float:
        """Return how many seconds ago the last read to the end began; infinite before the first."""
        return elapsed() - self._complete_until

    def ring(self) -> None:
        """Read the log soon: something may have been appended."""
        self._rung.set()

    def forget(self) -> None:
        """Read on with another connection, as the server has been left.

        Drop everything and begin anew, unless all that was missed can be read.
        """
        self._losses += 1
        self._complete_until = float("-inf")
        if not self._in_pages:
            self._position = None
            self._on_gap()
        if self._connection is not None:
            self._connection.close()

    async def run(self) -> None:
        """Read the log until cancelled; reconnect with a backoff of up to 2 s."""
        while True:
            try:
                await self._follow()
            except StoreUnavailable as error:
                cause = error.__cause__ or error
                self._log_once("log_follower_down", error=type(cause).__name__)
            await asyncio.sleep(self._backoff * JITTER.uniform(0.5, 1))
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    async def _follow(self) -> None:
        self._connection = connection = await LogConnection.open(self._database)
        try:
            while True:
                self._rung.clear()
                started = elapsed()
                is_complete = await self._read(connection, started)
                self._backoff = _FIRST_BACKOFF
                self._log_once("log_follower_up")
                if is_complete:
                    await self._pause(started)
        finally:
            self._connection = None
            connection.close()

    async def _read(self, connection: LogConnection, started: float) -> bool:
        """Read once; return whether that was to the end."""
        losses = self._losses
        if not self._in_pages and self.age() > _LONGEST_GAP:
            self._position = None
        read = await connection.read(self._source, self._position, _LIMIT, self._staleness)
        self._observe(ClockSample(read.database_time, started, elapsed()))
        position = read.position
        if read.rows is None or not (read.is_complete or self._in_pages):
            position = read.end
            self._on_gap()
        else:
            await self._pass_on(read.rows)
        was_left = losses != self._losses
        if self._in_pages or not was_left:
            self._position = position
            self._on_position(position, started)
        if was_left:
            raise StoreUnavailable
        if position == read.end:
            self._complete_until = started
        return position == read.end

    async def _pass_on(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _SLICE):
            if start:
                await asyncio.sleep(0)
            for row in rows[start : start + _SLICE]:
                self._tell(row)

    def _tell(self, row: Row) -> None:
        try:
            self._on_event(row)
        except Exception:  # whatever the error, what was derived from the log may be wrong
            log.exception("log_handler_failed", table=self._source.table)
            self._on_gap()

    async def _pause(self, started: float) -> None:
        """Wait until the next read is due, counted from the beginning of the last one."""
        due = started + self._staleness / 4
        try:
            async with asyncio.timeout(due - elapsed()):
                await self._rung.wait()
        except TimeoutError:
            return
        await asyncio.sleep(started + _SPACING - elapsed())

    def _log_once(self, event: str, **detail: str) -> None:
        if self._last_logged != event:
            self._last_logged = event
            log.info(event, table=self._source.table, **detail)
