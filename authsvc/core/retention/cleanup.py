"""Owns the retention periods of ended and expired data, and its removal in the background."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import structlog

from authsvc.config import RetentionSettings
from authsvc.core.audit.request_receipts import RECEIPT_LIFETIME
from authsvc.models.clock import Clock
from authsvc.store import (
    challenges,
    ip_blocks,
    oauth_states,
    one_time_codes,
    outbox,
    rate_limits,
    request_receipts,
    retention,
    session_keys,
)
from authsvc.store.postgres.database import Connection, Database

log = structlog.get_logger(__name__)

_Remove: TypeAlias = Callable[[Connection, datetime, int], Awaitable[int]]
_RemoveAll: TypeAlias = Callable[[], Awaitable[int]]
_NO_OTHERS: Mapping[str, _RemoveAll] = MappingProxyType({})


async def _delete_idle_limits(connection: Connection, _: datetime, limit: int) -> int:
    # By the database's clock, as limits are charged by it.
    return await rate_limits.delete_idle(connection, limit)


class Retention:
    """Removes what is due in small batches; any number of replicas may run at once.

    `others` are functions, by kind, that remove what takes more than one statement and return how
    much they removed.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: RetentionSettings,
        clock: Clock,
        others: Mapping[str, _RemoveAll] = _NO_OTHERS,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._others = others

    async def run(self) -> None:
        """Remove what is due about every `interval`, until cancelled."""
        while True:
            # Random, so that replicas that start together don't run together.
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            await self.run_once()

    async def run_once(self) -> dict[str, int]:
        """Remove everything that is due and return how much of each kind.

        A kind that fails is logged, missing from the result, and tried again the next time.
        """
        settings, now = self._settings, self._clock.now()
        work: dict[str, tuple[_Remove, datetime]] = {
            "sessions": (retention.delete_sessions, now - settings.sessions),
            "api_keys": (retention.delete_api_keys, now - settings.api_keys),
            "revocations": (retention.delete_revocations, now - settings.revocations),
            "devices": (retention.delete_devices, now - settings.devices),
            "session_keys": (session_keys.delete_expired, now),
            "one_time_codes": (one_time_codes.delete_expired, now),
            "challenges": (challenges.delete_expired, now),
            "oauth_states": (oauth_states.delete_expired, now),
            "messages": (outbox.delete_ended, now - settings.messages),
            "ip_blocks": (ip_blocks.delete_ended, now - settings.ip_blocks),
            "request_receipts": (request_receipts.delete_old, now - RECEIPT_LIFETIME),
            "rate_limits": (_delete_idle_limits, now),
            "audit_months": (retention.drop_audit_months, now - settings.audit_events),
            "audit_events": (retention.delete_audit_events, now - settings.audit_events),
        }
        kinds: dict[str, _RemoveAll] = {
            kind: partial(self._remove, *arguments) for kind, arguments in work.items()
        }
        kinds |= self._others
        removed = {}
        for kind, remove in kinds.items():
            try:
                removed[kind] = await remove()
            except Exception as error:  # noqa: BLE001 - the next run may succeed
                log.warning("retention_failed", kind=kind, error=type(error).__name__)
        if any(removed.values()):
            log.info("retention", **removed)
        return removed

    async def _remove(self, remove: _Remove, before: datetime) -> int:
        limit, removed = self._settings.batch_size, 0
        while True:
            start = time.monotonic()
            async with self._database.transaction() as connection:
                count = await remove(connection, before, limit)
            removed += count
            if count < limit:
                return removed
            # Leaves the database half of the time for others.
            await asyncio.sleep(time.monotonic() - start)

    @property
    def _interval(self) -> float:
        return self._settings.interval.total_seconds()
