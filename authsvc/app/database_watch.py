"""Owns the regular look at the database: whether it answers, and whether it lacks migrations."""

import asyncio
from collections.abc import Callable

import structlog

from authsvc.core.lib.clock import elapsed
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import count_pending

log = structlog.get_logger("authsvc.service")

_PROBE_INTERVAL = 1.0
_COUNT_INTERVAL = 60.0


class DatabaseWatch:
    """Looks at the database once a second; `is_up` and `migrations_pending` are what it saw last.

    The service starts only with a complete schema. Migrations are pending if the database has since
    been replaced by an older one; they are counted once a minute.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = elapsed) -> None:
        self._database = database
        self._clock = clock
        self._next_count = clock() + _COUNT_INTERVAL
        self.is_up = True
        self.migrations_pending = 0

    async def run(self, on_look: Callable[[str], object]) -> None:
        """Look until cancelled; `on_look` is called each time with what is wrong, or ""."""
        while True:
            on_look(await self.look())
            await self.count_if_due()
            await asyncio.sleep(_PROBE_INTERVAL)

    async def look(self) -> str:
        """Look once; return why the database can't be used, or ""."""
        try:
            await self._database.ping()
        except StoreUnavailable as error:
            self.is_up = False
            return f"database: {describe(error, host=False)}"
        self.is_up = True
        return ""

    async def count_if_due(self) -> None:
        """Count the pending migrations, unless that was tried within the last minute."""
        now = self._clock()
        if now < self._next_count:
            return
        # Even if it fails, so that a failure that lasts does not keep this from looking.
        self._next_count = now + _COUNT_INTERVAL
        try:
            async with self._database.connection() as connection:
                self.migrations_pending = await count_pending(connection)
        except StoreUnavailable:
            log.debug("migrations_not_counted")
