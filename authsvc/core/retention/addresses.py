"""Owns the truncation of the IP addresses of sessions and audit events after a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from authsvc.config import RetentionSettings, SessionSettings
from authsvc.models.clock import Clock
from authsvc.models.retention import Plan
from authsvc.store import addresses as store
from authsvc.store.postgres.database import Connection, Database

SESSIONS = "session_addresses"
EVENTS = "event_addresses"


class AddressTruncation:
    """Replaces addresses by their networks, in batches; any number of replicas may run at once.

    Sessions that are bound to the address of their client keep it until they end.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: RetentionSettings,
        sessions: SessionSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._period = settings.addresses
        self._batch_size = settings.batch_size
        self._binds_addresses = sessions.ip_binding != "off"
        self._clock = clock

    async def truncate_sessions(self) -> int:
        """Truncate the addresses of sessions that are old enough; return of how many."""
        if self._period is None:
            return 0
        before, ended_before = self._bounds(self._period)
        total = 0

        async def work(connection: Connection) -> bool:
            nonlocal total
            count = await store.truncate_sessions(
                connection, before, ended_before, self._batch_size
            )
            total += count
            return count == self._batch_size

        await self._repeat(work)
        return total

    async def truncate_events(self) -> int:
        """Truncate the addresses of audit events that are old enough; return of how many."""
        if self._period is None:
            return 0
        before, _ = self._bounds(self._period)
        total = 0

        async def work(connection: Connection) -> bool:
            nonlocal total
            count, more = await store.truncate_events(connection, before, self._batch_size)
            total += count
            return more

        await self._repeat(work)
        return total

    async def plan_sessions(self) -> Plan:
        """Return what `truncate_sessions` would do."""
        if self._period is None:
            return Plan(SESSIONS, None)
        async with self._database.connection() as connection:
            due = await store.find_sessions(connection, *self._bounds(self._period))
        return Plan.of(SESSIONS, self._period, due)

    async def plan_events(self) -> Plan:
        """Return what `truncate_events` would do."""
        if self._period is None:
            return Plan(EVENTS, None)
        async with self._database.connection() as connection:
            due = await store.find_events(connection, self._clock.now() - self._period)
        return Plan.of(EVENTS, self._period, due)

    def _bounds(self, period: timedelta) -> tuple[datetime, datetime | None]:
        now = self._clock.now()
        return now - period, now if self._binds_addresses else None

    async def _repeat(self, work: Callable[[Connection], Awaitable[bool]]) -> None:
        """Call `work` in a transaction of its own until it returns that nothing is left."""
        while True:
            start = time.monotonic()
            async with self._database.transaction() as connection:
                more = await work(connection)
            if not more:
                return
            # Leaves the database half of the time for others.
            await asyncio.sleep(time.monotonic() - start)
