"""Owns the noting of when sessions were last used: collected, then written many at once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Generic, TypeAlias, TypeVar
from uuid import UUID

import structlog

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.database import Connection, Database

_FLUSH_SECONDS = 1.0
_ROWS_A_STATEMENT = 1_000
_MAX_WAITING = 100_000

log = structlog.get_logger(__name__)

Key = TypeVar("Key", bound=UUID)
_Touch: TypeAlias = Callable[[Connection, Mapping[Key, datetime], timedelta], Awaitable[None]]


class LastUse(Generic[Key]):
    """Times of use that wait to be written, at most one a thing and `_MAX_WAITING` in all.

    `touch` writes them, for things last noted `interval` before or earlier. Losing some is
    harmless: what is lost is how exactly `last_use_time` is known.
    """

    def __init__(self, database: Database, touch: _Touch[Key], interval: timedelta) -> None:
        self._database = database
        self._touch = touch
        self._interval = interval
        self._waiting: dict[Key, datetime] = {}

    def note(self, key: Key, now: datetime) -> None:
        """Have it written that the thing with this id was used now; dropped if too many wait."""
        if key in self._waiting or len(self._waiting) < _MAX_WAITING:
            self._waiting[key] = now

    async def flush(self) -> None:
        """Write what waits. If that fails (StoreUnavailable), the rest goes on waiting."""
        while self._waiting:
            batch = dict(islice(self._waiting.items(), _ROWS_A_STATEMENT))
            async with self._database.connection() as connection:
                await self._touch(connection, batch, self._interval)
            for key, use_time in batch.items():
                if self._waiting.get(key) == use_time:
                    del self._waiting[key]

    async def run(self) -> None:
        """Write what waits every second, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except StoreUnavailable:
                log.warning("last_use_not_written", waiting=len(self._waiting))
