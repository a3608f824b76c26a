"""Owns the policies that are defined at run time, beside those of the settings, and overrides."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.definitions import Definitions
from authsvc.core.limits.limiter import RateLimiter
from authsvc.errors import (
    defined_in_settings,
    limit_reached,
    override_not_found,
    policy_unknown,
)
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.limits import Override, Policy
from authsvc.store import definitions
from authsvc.store import policies as store
from authsvc.store.definitions import Topic
from authsvc.store.postgres.database import Connection, Database

log = structlog.get_logger(__name__)

MAX_POLICIES = 1_000
MAX_OVERRIDES = 10_000


class Policies:
    """Policies of the settings and of run time, which the limiter is told of.

    One of the settings wins over another of the same name.
    """

    def __init__(
        self,
        *,
        database: Database,
        limiter: RateLimiter,
        definitions: Definitions,
        in_settings: Mapping[str, Policy],
        clock: Clock,
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._definitions = definitions
        self._in_settings = in_settings
        self._clock = clock
        self._stored: Mapping[str, Policy] = {}
        self._overrides: Sequence[Override] = ()
        self._overruled: Sequence[str] = ()
        definitions.follow(Topic.POLICIES, self._load)

    def now(self) -> datetime:
        """Return the time by which overrides expire."""
        return self._clock.now()

    def replace_settings(self, policies: Mapping[str, Policy]) -> None:
        """Use these policies of the settings from now on."""
        self._in_settings = policies
        self._apply()

    async def put(self, call: Call, policy: Policy) -> bool:
        """Create or replace a policy, on every replica within a second; return whether it is new.

        Raises:
            FailedPrecondition: DEFINED_IN_SETTINGS, LIMIT_REACHED.
        """
        if policy.name in self._in_settings:
            raise defined_in_settings(policy.name)
        now = self._clock.now()
        async with self._database.transaction(Topic.POLICIES) as connection:
            await definitions.change(connection, Topic.POLICIES)
            before, _ = await store.count(connection, now)
            await store.put(connection, policy, now)
            after, _ = await store.count(connection, now)
            if before < after > MAX_POLICIES:
                raise limit_reached(MAX_POLICIES)
            detail = {
                "policy": policy.name,
                "algorithm": policy.algorithm.value,
                "requests": policy.requests,
                "window_seconds": str(policy.window.total_seconds()),
                "burst": policy.burst,
                "durable": policy.durable,
                "unlimited": policy.unlimited,
                "shadow": policy.shadow,
            }
            await self._record(connection, call, AuditType.POLICY_PUT, detail)
        await self._definitions.note_change()
        return before < after

    async def delete(self, call: Call, name: str) -> None:
        """Delete a policy that is defined at run time, and its overrides.

        What the settings overrule can be deleted too, which changes nothing else.

        Raises:
            NotFound: POLICY_UNKNOWN.
            FailedPrecondition: DEFINED_IN_SETTINGS.
        """
        async with self._database.transaction(Topic.POLICIES) as connection:
            await definitions.change(connection, Topic.POLICIES)
            if not await store.delete(connection, name):
                known = name in self._in_settings
                raise defined_in_settings(name) if known else policy_unknown(name)
            if name not in self._in_settings:
                await store.delete_overrides(connection, name)
            await self._record(connection, call, AuditType.POLICY_DELETE, {"policy": name})
        await self._definitions.note_change()

    async def put_override(self, call: Call, override: Override) -> None:
        """Create or replace what holds for one key, on every replica within a second.

        Raises:
            NotFound: POLICY_UNKNOWN.
            FailedPrecondition: LIMIT_REACHED.
        """
        now = self._clock.now()
        async with self._database.transaction(Topic.POLICIES) as connection:
            await definitions.change(connection, Topic.POLICIES)
            if override.policy not in self._in_settings and not any(
                policy.name == override.policy for policy in await store.read(connection)
            ):
                raise policy_unknown(override.policy)
            _, before = await store.count(connection, now)
            await store.put_override(connection, override, now)
            _, after = await store.count(connection, now)
            if before < after > MAX_OVERRIDES:
                raise limit_reached(MAX_OVERRIDES)
            detail = {
                **_named(override.policy, override.key),
                "effect": override.effect.value,
                "requests": override.requests,
                "burst": override.burst,
                "expire_time": str(override.expire_time or ""),
            }
            await self._record(connection, call, AuditType.POLICY_OVERRIDE_PUT, detail)
        await self._definitions.note_change()

    async def delete_override(self, call: Call, policy: str, key: str) -> None:
        """Delete an override, on every replica within a second.

        Raises:
            NotFound: OVERRIDE_NOT_FOUND.
        """
        async with self._database.transaction(Topic.POLICIES) as connection:
            await definitions.change(connection, Topic.POLICIES)
            if not await store.delete_override(connection, policy, key):
                raise override_not_found()
            detail = _named(policy, key)
            await self._record(connection, call, AuditType.POLICY_OVERRIDE_DELETE, detail)
        await self._definitions.note_change()

    async def list_overrides(
        self, policy: str | None, after: tuple[str, str], limit: int
    ) -> list[Override]:
        """Return up to `limit` overrides in force that follow the policy and key `after`."""
        async with self._database.connection() as connection:
            return await store.list_overrides(connection, after, self._clock.now(), limit, policy)

    async def _load(self, connection: Connection) -> None:
        stored = {policy.name: policy for policy in await store.read(connection)}
        overrides = await store.read_overrides(connection, self._clock.now())
        self._stored, self._overrides = stored, overrides
        self._apply()

    def _apply(self) -> None:
        overruled = sorted(self._stored.keys() & self._in_settings.keys())
        if overruled and overruled != self._overruled:
            log.warning("policies_overruled_by_settings", policies=overruled)
        self._overruled = overruled
        policies = {**self._stored, **self._in_settings}
        self._limiter.replace_policies(policies, self._overrides, self._clock)

    async def _record(
        self, connection: Connection, call: Call, kind: AuditType, detail: Detail
    ) -> None:
        await record_event(connection, self._clock.now(), AuditEvent(kind, call, detail=detail))


def _named(policy: str, key: str) -> dict[str, str]:
    """Return which key an event is about; by its hash, as it may be somebody's address."""
    return {"policy": policy, "key_sha256": hashlib.sha256(key.encode()).hexdigest()}
