"""Owns the retention periods of ended and expired data, and its removal in the background."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

import structlog

from authsvc.config import RetentionSettings
from authsvc.core.audit.request_receipts import RECEIPT_LIFETIME
from authsvc.core.lib.jitter import JITTER
from authsvc.errors import StoreUnavailable
from authsvc.models.clock import Clock
from authsvc.models.retention import Plan
from authsvc.store import (
    challenges,
    detections,
    ip_blocks,
    login_freezes,
    oauth_states,
    one_time_codes,
    outbox,
    policies,
    rate_limits,
    request_receipts,
    retention,
    session_keys,
    token_validities,
)
from authsvc.store.postgres.database import Connection, Database

log = structlog.get_logger(__name__)

# Whole months of audit events, which are counted with the others.
_MONTHS = "audit_months"

_Remove: TypeAlias = Callable[[Connection, datetime, int], Awaitable[int]]
_RemoveAll: TypeAlias = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Step:
    """What removes data in more than one statement and returns how much, and what plans that."""

    remove: _RemoveAll
    plan: Callable[[], Awaitable[Plan]]


_NO_OTHERS: Mapping[str, Step] = MappingProxyType({})


async def _delete_idle_limits(connection: Connection, _: datetime, limit: int) -> int:
    # By the database's clock, as limits are charged by it.
    return await rate_limits.delete_idle(connection, limit)


class Retention:
    """Removes what is due in small batches; any number of replicas may run at once.

    `others` are steps, by kind, for what takes more than one statement.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: RetentionSettings,
        clock: Clock,
        others: Mapping[str, Step] = _NO_OTHERS,
    ) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._others = others

    async def run(self) -> None:
        """Remove what is due about every `interval`, until cancelled."""
        while True:
            # Random, so that replicas that start together don't run together.
            await asyncio.sleep(self._interval * JITTER.uniform(0.5, 1.5))
            with contextlib.suppress(StoreUnavailable):
                await self.run_once()

    async def run_once(self) -> dict[str, int]:
        """Remove everything that is due and return how much of each kind.

        A kind that fails is logged, missing from the result, and tried again the next time.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        work = await self._work(self._clock.now())
        kinds: dict[str, _RemoveAll] = {
            kind: partial(self._remove, *arguments) for kind, arguments in work.items()
        }
        kinds |= {kind: step.remove for kind, step in self._others.items()}
        removed = {}
        for kind, remove in kinds.items():
            try:
                removed[kind] = await remove()
            except Exception as error:  # noqa: BLE001 - the next run may succeed
                log.warning("retention_failed", kind=kind, error=type(error).__name__)
        if any(removed.values()):
            # With this suffix, no count is taken for a secret: there are `one_time_codes`.
            log.info("retention", **{f"{kind}_count": count for kind, count in removed.items()})
        return removed

    async def plan(self) -> Sequence[Plan]:
        """Return what a run would remove now of each kind, and when there will be more."""
        now, plans = self._clock.now(), []
        for kind, (_, before) in (await self._work(now)).items():
            if kind != _MONTHS:
                async with self._database.connection() as connection:
                    due = await retention.find_due(connection, kind, before)
                plans.append(Plan.of(kind, now - before, due))
        return [*plans, *[await step.plan() for step in self._others.values()]]

    async def _work(self, now: datetime) -> Mapping[str, tuple[_Remove, datetime]]:
        """Return what removes each kind, and the time before which it has to have ended."""
        settings = self._settings
        async with self._database.connection() as connection:
            # What other settings issued may be valid for longer than these keep revocations.
            validity = await token_validities.longest(connection, now)
        return {
            "sessions": (retention.delete_sessions, now - settings.sessions),
            "api_keys": (retention.delete_api_keys, now - settings.api_keys),
            "revocations": (
                retention.delete_revocations,
                now - max(settings.revocations, validity),
            ),
            "devices": (retention.delete_devices, now - settings.devices),
            "session_keys": (session_keys.delete_expired, now),
            "one_time_codes": (one_time_codes.delete_expired, now),
            "challenges": (challenges.delete_expired, now),
            "oauth_states": (oauth_states.delete_expired, now),
            "messages": (outbox.delete_ended, now - settings.messages),
            "detections": (detections.delete_ended, now),
            "login_freezes": (login_freezes.delete_ended, now),
            "ip_blocks": (ip_blocks.delete_ended, now - settings.ip_blocks),
            "request_receipts": (request_receipts.delete_old, now - RECEIPT_LIFETIME),
            "rate_limits": (_delete_idle_limits, now),
            "policy_overrides": (policies.delete_expired, now),
            _MONTHS: (retention.drop_audit_months, now - settings.audit_events),
            "audit_events": (retention.delete_audit_events, now - settings.audit_events),
        }

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
