"""Owns the evidence of a time span: what is exported of the database, row by row."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from authsvc.core.limits.blocking import IpBlocking
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.store import incidents as store
from authsvc.store import login_freezes
from authsvc.store.postgres.database import Connection, Database

_BATCH = 1_000

Row: TypeAlias = Mapping[str, Any]
_Page: TypeAlias = Callable[
    [Connection, datetime, datetime, UUID | None, int], Awaitable[Sequence[Any]]
]


class EvidenceExport:
    """Reads the evidence, a page at a time; no secret, hash or sealed key is part of it."""

    def __init__(
        self, database: Database, signing_keys: SigningKeys, ip_blocking: IpBlocking
    ) -> None:
        self._database = database
        self._signing_keys = signing_keys
        self._ip_blocking = ip_blocking

    def of(self, since: datetime, until: datetime) -> Mapping[str, AsyncIterator[Row]]:
        """Return the rows of each kind: those of the time span, or all if they have none."""
        return {
            "events": self._paged(store.list_events_between, "event_id", since, until),
            "sessions": self._paged(store.list_sessions_between, "session_id", since, until),
            "signing_keys": self._keys(),
            "login_freezes": self._freezes(),
            "ip_blocks": self._blocks(),
        }

    async def _paged(
        self, page: _Page, key: str, since: datetime, until: datetime
    ) -> AsyncIterator[Row]:
        after: UUID | None = None
        while True:
            async with self._database.connection() as connection:
                rows = await page(connection, since, until, after, _BATCH)
            for row in rows:
                values = dict(row)
                if "detail" in values:
                    values["detail"] = json.loads(values["detail"])
                yield values
            if len(rows) < _BATCH:
                return
            after = rows[-1][key]

    async def _keys(self) -> AsyncIterator[Row]:
        for info in await self._signing_keys.list():
            yield asdict(info)

    async def _freezes(self) -> AsyncIterator[Row]:
        async with self._database.connection() as connection:
            freezes = await login_freezes.list_all(connection)
        for freeze in freezes:
            yield asdict(freeze)

    async def _blocks(self) -> AsyncIterator[Row]:
        after: str | None = None
        while blocks := await self._ip_blocking.list_after(after, _BATCH):
            for block in blocks:
                yield asdict(block)
            after = blocks[-1].network
