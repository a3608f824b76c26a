"""Owns the reading of the audit log for operators: its newest events, and new ones as they come."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.core.lib.clock import elapsed
from authsvc.core.lib.paging import cut, page_size, page_token, parse_page_token
from authsvc.models.audit import AuditFilter, AuditRow
from authsvc.models.clock import Clock
from authsvc.store import audit
from authsvc.store.postgres.database import Database

_POLL_SECONDS = 1.0
# An event can be read once its transaction has ended, which may be this long after its time.
_LONGEST_TRANSACTION = timedelta(seconds=30)
_BATCH = 1_000
# Events that one statement looks at, and seconds after which a page ends with what was found.
_LOOKS = 5_000
_PATIENCE = 1.0
_ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of events, newest first, and the token of the next one, "" if it is the last."""

    rows: Sequence[AuditRow]
    next_page_token: str


class AuditListing:
    """Reads the audit log."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def newest(self, limit: int, before: UUID | None = None) -> Sequence[AuditRow]:
        """Return the newest `limit` events, or the newest before one, in the order of their ids."""
        async with self._database.connection() as connection:
            return await audit.list_before(connection, before, limit)

    async def page(
        self,
        wanted: AuditFilter,
        start: datetime | None,
        end: datetime | None,
        size: int,
        token: str,
    ) -> AuditPage:
        """Return the newest events that match, from `start` until before `end`.

        A page ends after about a second, with fewer events than it could have, or none.

        Raises:
            FieldInvalid: `page_size` or `page_token`; the latter belongs to one list, so a token of
                another filter or time span is none.
        """
        size = page_size(size)
        owner = _list_id(wanted, start, end)
        before = parse_page_token(owner, token) if token else None
        span = (start or _ALWAYS[0], end or _ALWAYS[1])
        rows: list[AuditRow] = []
        until = elapsed() + _PATIENCE
        while True:
            async with self._database.connection() as connection:
                scanned = await audit.scan(
                    connection, wanted, span, before, looks=_LOOKS, limit=size + 1 - len(rows)
                )
            rows += scanned.rows
            before = scanned.reached
            if len(rows) > size:
                return AuditPage(*cut(rows, size, lambda row: page_token(owner, row.event_id)))
            if before is None:
                return AuditPage(rows, "")
            if elapsed() >= until:
                return AuditPage(rows, page_token(owner, before))

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


def _list_id(*selection: object) -> UUID:
    """Return an id of the list of the events selected by these values."""
    return UUID(bytes=hashlib.sha256(repr(selection).encode()).digest()[:16])
