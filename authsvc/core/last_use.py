"""Owns the noting of when sessions were last used: collected, then written many at once."""

import asyncio
from datetime import datetime, timedelta
from itertools import islice

import structlog

from authsvc.errors import StoreUnavailable
from authsvc.models import SessionId
from authsvc.store import sessions as store
from authsvc.store.database import Database

_FLUSH_SECONDS = 1.0
_ROWS_A_STATEMENT = 1_000
_MAX_WAITING = 100_000

_log = structlog.get_logger(__name__)


class LastUse:
    """Times of use that wait to be written, at most one a session and `_MAX_WAITING` in all.

    Losing some is harmless: what is lost is how exactly `last_use_time` is known.
    """

    def __init__(self, database: Database, interval: timedelta) -> None:
        self._database = database
        self._interval = interval
        self._waiting: dict[SessionId, datetime] = {}

    def note(self, session_id: SessionId, now: datetime) -> None:
        """Have it written that the session was used now; dropped if too many wait."""
        if session_id in self._waiting or len(self._waiting) < _MAX_WAITING:
            self._waiting[session_id] = now

    async def flush(self) -> None:
        """Write what waits. If that fails (StoreUnavailable), the rest goes on waiting."""
        while self._waiting:
            batch = dict(islice(self._waiting.items(), _ROWS_A_STATEMENT))
            async with self._database.connection() as connection:
                await store.touch(connection, batch, self._interval)
            for session_id, use_time in batch.items():
                if self._waiting.get(session_id) == use_time:
                    del self._waiting[session_id]

    async def run(self) -> None:
        """Write what waits every second, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except StoreUnavailable:
                _log.warning("last_use_not_written", waiting=len(self._waiting))
