"""Owns the forwarding of audit events to a target outside: at least once, by one replica at a time.

The position is stored once the target has confirmed a batch. A crash in between sends the batch
again: the target recognises the events by their ids. While the target is down, the position stays
where it is, and nothing is skipped.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import uuid4

import structlog

from authsvc.config import AuditForwardSettings
from authsvc.core.audit.cursors import read_cursor, write_cursor
from authsvc.core.lib.jitter import JITTER
from authsvc.errors import StoreUnavailable
from authsvc.measures import Counts
from authsvc.models.audit import AuditRow
from authsvc.models.clock import Clock
from authsvc.store import audit, audit_forwards
from authsvc.store.audit import LOG
from authsvc.store.audit_forwards import Forward
from authsvc.store.log_reading import read_log
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe

log = structlog.get_logger(__name__)

# Seconds between two looks, and longer than storing the outcome of a batch takes.
_POLL_SECONDS = 1.0
_LEASE_MARGIN = timedelta(seconds=30)
# When a position is lost, events are repeated from so long before the time of the last one: longer
# than any transaction that writes them lasts.
_REPEATED = timedelta(minutes=10)
# How often the position is stored when there is nothing to forward.
_IDLE_INTERVAL = timedelta(seconds=10)
_LONGEST_EXPONENT = 32


class NotForwarded(Exception):
    """The target has not confirmed a batch; the message says why in a word."""


class Target(Protocol):
    """Where events are forwarded to. `name` identifies it, and `limit` is the time for a batch."""

    name: str
    limit: timedelta

    async def send(self, rows: Sequence[AuditRow]) -> None:
        """Return once the target has confirmed that it has all of these; else raise NotForwarded.

        Takes no more than `limit`.
        """

    async def close(self) -> None:
        """Close open connections."""


class AuditForwarding:
    """Forwards audit events in batches; any number of replicas may run it.

    `outcomes` counts the events of each batch by its outcome.
    """

    def __init__(
        self,
        *,
        database: Database,
        target: Target,
        settings: AuditForwardSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._target = target
        self._settings = settings
        self._clock = clock
        self.outcomes = Counts(("forwarded",), ("failed",))
        self._holder_id = uuid4()
        self._failures = 0
        self._forward_time: datetime | None = None
        self._warned = False

    def lag(self) -> float:
        """Return how many seconds ago the time was until which all events have been forwarded."""
        if self._forward_time is None:
            return 0.0
        return max(0.0, (self._clock.now() - self._forward_time).total_seconds())

    async def run(self) -> None:
        """Forward events until cancelled."""
        while True:
            try:
                has_more = await self.forward_batch()
            except StoreUnavailable as error:
                log.warning("audit_forward_unread", cause=describe(error))
                has_more = False
            self._warn()
            if not has_more:
                await asyncio.sleep(self._pause())

    async def forward_batch(self) -> bool:
        """Forward one batch, if no other replica does; return whether there may be more.

        Raises StoreUnavailable.
        """
        name, lease = self._target.name, self._target.limit + _LEASE_MARGIN
        async with self._database.connection() as connection:
            forward = await audit_forwards.claim(connection, name, self._holder_id, lease)
            if forward is None:
                known = await audit_forwards.get(connection, name)
                self._forward_time = known.forward_time if known else None
                return False
        self._forward_time = forward.forward_time
        if forward.position is None:
            return await self._forward_span(forward)
        return await self._forward_page(forward, forward.position)

    async def stop(self) -> None:
        """Let another replica go on at once."""
        try:
            async with self._database.connection() as connection:
                await audit_forwards.release(connection, self._target.name, self._holder_id)
        except StoreUnavailable:
            # Another one goes on when the claim has expired.
            log.debug("audit_forward_not_released")
        await self._target.close()

    async def _forward_page(self, forward: Forward, position: str) -> bool:
        """Forward what was committed since the position."""
        async with self._database.connection() as connection:
            read = await read_log(connection, LOG, read_cursor(position), self._settings.batch_size)
        if read.rows is None:
            log.warning("audit_forward_position_lost", target=self._target.name)
            return await self._store(forward, None, forward.forward_time)
        if not await self._send(read.rows):
            return False
        reached = read.position
        if not read.rows and reached.read_time - forward.forward_time < _IDLE_INTERVAL:
            self._forward_time = reached.read_time
            return not read.is_complete
        stored = await self._store(forward, write_cursor(reached), reached.read_time)
        return stored and not read.is_complete

    async def _forward_span(self, forward: Forward) -> bool:
        """Forward by time what may not have been forwarded, and go on by position.

        The position is taken first, so whatever is committed meanwhile comes after it.
        """
        async with self._database.connection() as connection:
            end = (await read_log(connection, LOG, None, 0)).end
        oldest, after = forward.forward_time - _REPEATED, None
        while True:
            async with self._database.connection() as connection:
                rows = await audit.list_since(connection, oldest, after, self._settings.batch_size)
            if not await self._send(rows):
                return False
            if len(rows) < self._settings.batch_size:
                return await self._store(forward, write_cursor(end), end.read_time)
            after = rows[-1].event_id
            # Where to go on if this process ends here. Renews the claim, too.
            until = max(forward.forward_time, rows[-1].occur_time)
            if not await self._store(forward, None, min(until, end.read_time)):
                return False

    async def _send(self, rows: Sequence[AuditRow]) -> bool:
        if not rows:
            return True
        try:
            await self._target.send(rows)
        except NotForwarded as error:
            self._failures += 1
            self.outcomes.add("failed", count=len(rows))
            log.warning(
                "audit_forward_failed",
                target=self._target.name,
                error=str(error),
                failures=self._failures,
            )
            return False
        self._failures = 0
        self.outcomes.add("forwarded", count=len(rows))
        return True

    async def _store(self, forward: Forward, position: str | None, time: datetime) -> bool:
        name, lease = self._target.name, self._target.limit + _LEASE_MARGIN
        async with self._database.transaction() as connection:
            if not await audit_forwards.advance(connection, name, forward, position, time):
                return False
            await audit_forwards.claim(connection, name, self._holder_id, lease)
        self._forward_time = time
        return True

    def _pause(self) -> float:
        """Return the seconds until the next look: longer after each failure."""
        if not self._failures:
            return _POLL_SECONDS
        first = self._settings.first_retry.total_seconds()
        longest = self._settings.longest_retry.total_seconds()
        doubled = min(first * 2.0 ** min(self._failures - 1, _LONGEST_EXPONENT), longest)
        return doubled * JITTER.uniform(0.5, 1)

    def _warn(self) -> None:
        lags = self.lag() > self._settings.warn_after.total_seconds()
        if lags and not self._warned:
            log.warning("audit_forward_lags", target=self._target.name, seconds=round(self.lag()))
        self._warned = lags
