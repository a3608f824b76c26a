"""Owns the reading of the audit log for operators: its newest events, and new ones as they come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from authsvc.models.clock import Clock
from authsvc.store import audit
from authsvc.store.audit import AuditRow
from authsvc.store.postgres.database import Database

_POLL_SECONDS = 1.0
# An event can be read once its transaction has ended, which may be this long after its time.
_LONGEST_TRANSACTION = timedelta(seconds=30)
_BATCH = 1_000


class AuditListing:
    """Reads the audit log."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def newest(self, limit: int, before: UUID | None = None) -> Sequence[AuditRow]:
        """Return the newest `limit` events, or the newest before one, in the order of their ids."""
        async with self._database.connection() as connection:
            return await audit.list_before(connection, before, limit)

    async def follow(self, limit: int) -> AsyncIterator[AuditRow]:
        """Yield the newest `limit` events, and then, without an end, each new one once.

        Those that are committed at about the same time may come in another order than that of their
        time.
        """
        # Read first, so that whatever is committed from now on counts as new.
        known = {row.event_id: row.occur_time async for row in self._since(self._oldest())}
        for row in await self.newest(limit):
            known[row.event_id] = row.occur_time
            yield row
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            oldest = self._oldest()
            known = {key: time for key, time in known.items() if time >= oldest}
            async for row in self._since(oldest):
                if row.event_id not in known:
                    known[row.event_id] = row.occur_time
                    yield row

    def _oldest(self) -> datetime:
        """Return the time before which no event can still be committed."""
        return self._clock.now() - _LONGEST_TRANSACTION

    async def _since(self, oldest: datetime) -> AsyncIterator[AuditRow]:
        after = None
        while True:
            async with self._database.connection() as connection:
                rows = await audit.list_since(connection, oldest, after, _BATCH)
            for row in rows:
                yield row
            if len(rows) < _BATCH:
                return
            after = rows[-1].event_id
