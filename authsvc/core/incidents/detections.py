"""Owns detections: what in the audit events looks like an attack, and the raising of it.

Every few seconds one of the replicas, whichever claims the turn, counts the events of the last
minutes by SQL. What reaches its threshold is raised once in its window, as an audit event, a line
in the log and a count in the metrics.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import TypeAlias

import structlog

from authsvc.config import BruteForceSettings, DetectionSettings, DetectionsSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.jitter import JITTER
from authsvc.errors import StoreUnavailable
from authsvc.measures import Counts
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.incidents import Detection, DetectionName
from authsvc.store import detections as store
from authsvc.store.detections import Count, Window
from authsvc.store.postgres.database import Connection, Database

log = structlog.get_logger(__name__)

# Events of what is done to other people's accounts, or to the service: those of these kinds, and
# more whose kind is shared with what users do themselves.
_ADMINISTRATIVE_KINDS = ("users.", "key.", "ip.", "policy.", "role.")
_ADMINISTRATIVE_TOO = {
    AuditType.USER_CREATE,
    AuditType.USER_DISABLE,
    AuditType.USER_ENABLE,
    AuditType.USER_ROLES_SET,
    AuditType.USER_UNLOCK,
    AuditType.PASSWORD_CHANGE_REQUIRE,
    AuditType.IMPERSONATE,
    AuditType.REVOKE_ALL,
    AuditType.MESSAGE_RETRY,
}
ADMINISTRATIVE = frozenset(
    type_
    for type_ in AuditType
    if type_.value.startswith(_ADMINISTRATIVE_KINDS) or type_ in _ADMINISTRATIVE_TOO
)
_BY_NETWORK = {DetectionName.PASSWORD_SPRAYING, DetectionName.NEW_DEVICES}
# The service itself rotates keys and blocks addresses.
_SYSTEM = "system"

_Look: TypeAlias = Callable[[Connection, Window, int], Awaitable[Sequence[Count]]]


@dataclass(frozen=True, slots=True)
class _Rule:
    name: DetectionName
    settings: DetectionSettings
    look: _Look


class Detections:
    """Looks for incidents; `raised` counts those that this process raises, by name."""

    def __init__(
        self,
        *,
        database: Database,
        settings: DetectionsSettings,
        networks: BruteForceSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._interval = settings.interval
        self._ipv4_prefix = networks.ipv4_prefix
        self._ipv6_prefix = networks.ipv6_prefix
        self._clock = clock
        self._failed_percent = settings.credential_stuffing.failed_percent
        self._rules = [rule for rule in self._all_rules(settings) if rule.settings.enabled]
        self.raised = Counts(*((name.value,) for name in DetectionName))
        self._last_run: datetime | None = None

    def age(self) -> float:
        """Return how many seconds ago some replica last looked, as far as this one knows."""
        if self._last_run is None:
            return float("inf")
        return max(0.0, (self._clock.now() - self._last_run).total_seconds())

    async def run(self) -> None:
        """Look whenever it is due and no other replica has, until cancelled."""
        while True:
            # Random, so that replicas that start together don't ask together.
            await asyncio.sleep(self._interval.total_seconds() * JITTER.uniform(0.5, 1))
            try:
                await self.run_once()
            except StoreUnavailable as error:
                log.warning("detections_failed", error=type(error.__cause__ or error).__name__)

    async def run_once(self) -> list[Detection]:
        """Look if it is due, and return what this call raised.

        A detection that fails is logged, and does not keep the others from being looked for.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        now = self._clock.now()
        async with self._database.connection() as connection:
            claimed = await store.claim_run(connection, now, self._interval)
            self._last_run = now if claimed else await store.last_run(connection)
        raised: list[Detection] = []
        for rule in self._rules if claimed else ():
            try:
                raised += await self._apply(rule, now)
            except StoreUnavailable as error:
                # Perhaps only this one takes too long; the next run tries again.
                cause = type(error.__cause__ or error).__name__
                log.warning("detection_failed", name=rule.name.value, error=cause)
        return raised

    async def _apply(self, rule: _Rule, now: datetime) -> list[Detection]:
        settings = rule.settings
        window = Window(now - settings.window, self._ipv4_prefix, self._ipv6_prefix)
        async with self._database.connection() as connection:
            counts = await rule.look(connection, window, settings.threshold)
        found = [
            Detection(rule.name, each.subject, each.count, settings.threshold, settings.window)
            for each in counts
            if each.count >= settings.threshold
        ]
        return [detection for detection in found if await self._raise(detection, now)]

    async def _raise(self, detection: Detection, now: datetime) -> bool:
        async with self._database.transaction() as connection:
            if not await store.claim(connection, detection, now):
                return False
            await record_event(connection, now, _event(detection))
        self.raised.add(detection.name.value)
        log.warning("detection", name=detection.name.value, count=detection.count)
        return True

    def _all_rules(self, settings: DetectionsSettings) -> Iterable[_Rule]:
        yield _Rule(
            DetectionName.PASSWORD_SPRAYING, settings.password_spraying, store.count_sprayed
        )
        yield _Rule(
            DetectionName.CREDENTIAL_STUFFING, settings.credential_stuffing, self._look_for_stuffing
        )
        yield _Rule(
            DetectionName.MASS_PASSWORD_RESET,
            settings.mass_password_reset,
            _of_service(store.count_resets),
        )
        yield _Rule(
            DetectionName.REFRESH_REUSE, settings.refresh_reuse, _of_service(store.count_reuses)
        )
        yield _Rule(DetectionName.NEW_DEVICES, settings.new_devices, store.count_new_devices)
        yield _Rule(DetectionName.ADMIN_VOLUME, settings.admin_volume, _look_for_administration)
        yield _Rule(
            DetectionName.KEY_COMPROMISE,
            settings.key_compromise,
            _of_service(store.count_revoked_keys),
        )

    async def _look_for_stuffing(
        self, connection: Connection, window: Window, _least: int
    ) -> Sequence[Count]:
        failed, succeeded = await store.count_logins(connection, window)
        # Of a busy service's logins some always fail.
        is_usual = failed * 100 < self._failed_percent * (failed + succeeded)
        return [] if is_usual else [Count("", failed)]


def _of_service(count: Callable[[Connection, Window], Awaitable[int]]) -> _Look:
    """Return the look for a count that concerns the service as a whole."""

    async def look(connection: Connection, window: Window, _least: int) -> Sequence[Count]:
        return [Count("", await count(connection, window))]

    return look


async def _look_for_administration(
    connection: Connection, window: Window, least: int
) -> Sequence[Count]:
    types = sorted(type_.value for type_ in ADMINISTRATIVE)
    found = await store.count_callers(connection, window, least, types)
    return [each for each in found if each.subject != _SYSTEM]


def _event(detection: Detection) -> AuditEvent:
    detail: dict[str, str | int] = {
        "detection": detection.name.value,
        "count": detection.count,
        "threshold": detection.threshold,
        "window_seconds": detection.window // timedelta(seconds=1),
    }
    client = None
    if detection.name in _BY_NETWORK:
        # As an address, it is treated like all others when they are shortened or removed.
        network = ip_network(detection.subject)
        client = ClientContext(str(network.network_address))
        detail["prefix"] = network.prefixlen
    elif detection.subject:
        detail["subject"] = detection.subject
    typed: Detail = detail
    return AuditEvent(AuditType.DETECTION_RAISE, Call("", _SYSTEM), client=client, detail=typed)
