"""Owns the reader of the revocation log: what was revoked, and whether all of it is known."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from authsvc.core.lib.clock import ClockSample, elapsed
from authsvc.errors import StoreUnavailable
from authsvc.models.revocations import Revocation
from authsvc.store.postgres.database import Database
from authsvc.store.revocations import LogConnection, Position

log = structlog.get_logger(__name__)

# Revocations in one read; if there are more, dropping everything costs less than reading them.
_LIMIT = 2_000
# Passed on before other work gets its turn.
_SLICE = 200
# Seconds between the beginnings of two reads, however often the doorbell rings.
_SPACING = 0.01
# After so many seconds without a read it begins anew, long before rows may have been removed.
_LONGEST_GAP = 60.0
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 2.0


def _ignore(_sample: ClockSample) -> None:
    """Ignore the sample."""


class RevocationReader:
    """Tells caches what to drop, and whether they may be used.

    `on_event` is called for each revocation, and `on_gap` whenever some may have been missed:
    everything cached until then must be dropped. The result of a look-up that began before either
    call must not be cached after it.

    While `is_fresh()`, every revocation acknowledged more than `staleness` ago has been passed to
    `on_event`. The log is read at each `ring`, and in any case every quarter of `staleness`.
    `observe` gets the database's time of each read.
    """

    def __init__(
        self,
        *,
        database: Database,
        staleness: timedelta,
        on_event: Callable[[Revocation], None],
        on_gap: Callable[[], None],
        observe: Callable[[ClockSample], None] = _ignore,
    ) -> None:
        self._database = database
        self._staleness = staleness.total_seconds()
        self._on_event = on_event
        self._on_gap = on_gap
        self._observe = observe
        self._position: Position | None = None
        self._complete_until = float("-inf")
        self._losses = 0
        self._connection: LogConnection | None = None
        self._rung = asyncio.Event()
        self._backoff = _FIRST_BACKOFF
        self._last_logged = ""
        database.on_leave(self.forget)

    def is_fresh(self) -> bool:
        """Return whether no revocation older than `staleness` can have been missed."""
        return self.age() <= self._staleness

    def age(self) -> float:
        """Return how many seconds ago the last successful read began; infinite before the first."""
        return elapsed() - self._complete_until

    def ring(self) -> None:
        """Read the log soon: something may have been appended."""
        self._rung.set()

    def forget(self) -> None:
        """Drop everything and begin anew, with another connection: the server has been left."""
        self._losses += 1
        self._position = None
        self._complete_until = float("-inf")
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
                self._log_once("revocation_reader_down", error=type(cause).__name__)
            await asyncio.sleep(self._backoff * random.uniform(0.5, 1))  # noqa: S311 - no secret
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    async def _follow(self) -> None:
        self._connection = connection = await LogConnection.open(self._database)
        try:
            while True:
                self._rung.clear()
                started = elapsed()
                await self._read(connection, started)
                self._backoff = _FIRST_BACKOFF
                self._log_once("revocation_reader_up")
                await self._pause(started)
        finally:
            self._connection = None
            connection.close()

    async def _read(self, connection: LogConnection, started: float) -> None:
        losses = self._losses
        if self.age() > _LONGEST_GAP:
            self._position = None
        read = await connection.read(self._position, _LIMIT, self._staleness)
        self._observe(ClockSample(read.database_time, started, elapsed()))
        if read.revocations is None:
            self._on_gap()
        else:
            await self._pass_on(read.revocations)
        if losses != self._losses:
            raise StoreUnavailable
        self._position = read.position
        self._complete_until = started

    async def _pass_on(self, revocations: Sequence[Revocation]) -> None:
        for start in range(0, len(revocations), _SLICE):
            if start:
                await asyncio.sleep(0)
            for revocation in revocations[start : start + _SLICE]:
                self._tell(revocation)

    def _tell(self, revocation: Revocation) -> None:
        try:
            self._on_event(revocation)
        except Exception:  # whatever the error, the caches may still hold what was revoked
            log.exception("revocation_handler_failed", kind=revocation.kind)
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
            log.info(event, **detail)
