"""Owns this replica's copies of what is defined at run time, and how old they may be.

Each copy is read whole, and again when its version has changed: at each ring of the doorbell, and
in any case several times a second. So a lost ring costs a quarter of the bound, and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import structlog

from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.jitter import JITTER
from authsvc.core.lib.single_flight import SingleFlight
from authsvc.errors import StoreUnavailable
from authsvc.store import definitions as store
from authsvc.store.definitions import Topic
from authsvc.store.postgres.database import Connection, Database

log = structlog.get_logger(__name__)

Load: TypeAlias = Callable[[Connection], Awaitable[None]]

_LONGEST_BOUND = 1.0
# Seconds between the beginnings of two reads, however often the doorbell rings.
_SPACING = 0.01


class Definitions:
    """Keeps copies of definitions up to date.

    `follow` names what reads a topic's copy. While `is_fresh()`, every change is known that was
    acknowledged more than `staleness`, or more than a second, ago.
    """

    def __init__(self, database: Database, staleness: timedelta) -> None:
        self._database = database
        self._bound = min(staleness.total_seconds(), _LONGEST_BOUND)
        self._loads: dict[Topic, Load] = {}
        self._versions: dict[Topic, UUID] = {}
        self._complete_until = float("-inf")
        self._losses = 0
        self._rung = asyncio.Event()
        self._reads = SingleFlight(self._read)
        self._is_up = True
        database.on_leave(self._forget)

    def follow(self, topic: Topic, load: Load) -> None:
        """Call `load` at the next read, and then whenever the topic's version has changed."""
        self._loads[topic] = load

    def is_fresh(self) -> bool:
        """Return whether no change older than the bound can have been missed."""
        return self.age() <= self._bound

    def age(self) -> float:
        """Return how many seconds ago the last successful read began; infinite before the first."""
        return elapsed() - self._complete_until

    def ring(self) -> None:
        """Read the versions soon: something may have changed."""
        self._rung.set()

    async def refresh(self) -> None:
        """Read whatever was changed before this call; raises StoreUnavailable."""
        await self._reads.read()

    async def note_change(self) -> None:
        """Refresh after a change of this process, which has been committed and can't fail now."""
        try:
            await self.refresh()
        except StoreUnavailable:
            self.ring()

    async def run(self) -> None:
        """Keep the copies up to date until cancelled."""
        while True:
            self._rung.clear()
            started = elapsed()
            try:
                await self.refresh()
            except StoreUnavailable:
                self._log_once(is_up=False)
                await asyncio.sleep(self._bound * JITTER.uniform(0.1, 0.3))
                continue
            self._log_once(is_up=True)
            await self._pause(started)

    async def _read(self) -> None:
        losses, started = self._losses, elapsed()
        async with self._database.connection() as connection:
            versions = await store.versions(connection)
            for topic, load in self._loads.items():
                version = versions[topic]
                if self._versions.get(topic) != version:
                    await load(connection)
                    self._versions[topic] = version
        if losses != self._losses:
            # It was read from a server that has been left.
            self._versions.clear()
            raise StoreUnavailable
        self._complete_until = started

    def _forget(self) -> None:
        self._losses += 1
        self._versions.clear()
        self._complete_until = float("-inf")

    async def _pause(self, started: float) -> None:
        try:
            async with asyncio.timeout(started + self._bound / 4 - elapsed()):
                await self._rung.wait()
        except TimeoutError:
            return
        await asyncio.sleep(started + _SPACING - elapsed())

    def _log_once(self, *, is_up: bool) -> None:
        if self._is_up != is_up:
            self._is_up = is_up
            if is_up:
                log.info("definitions_up")
            else:
                log.warning("definitions_down")
