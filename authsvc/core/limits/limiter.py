"""Owns the rate limiter: its policies, and when it queries the database."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from authsvc.config import NamedPolicySettings, PolicySettings
from authsvc.core.lib.batching import Batcher
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.decisions import Decisions
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.batch import Batch, Check, parts
from authsvc.core.limits.held_keys import HeldKeys
from authsvc.core.limits.limits import Limit, Limits, result_of
from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.errors import ServiceError, policy_unknown
from authsvc.models.clock import Clock
from authsvc.models.limits import OWN_PREFIX, Charge, CheckResult, Override, Policy, Verdict
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection, Database

__all__ = ["Check", "RateLimiter", "policies_from"]

# A statement with this many keys takes a few milliseconds, during which the others wait.
_MAX_BATCH = 500
_MAX_WAITING = 20_000

Result = TypeVar("Result")
_Outcome: TypeAlias = CheckResult | ServiceError | store.KeysHeld
# Applies a function to a sequence, as a whole or to one part after another.
_Apply: TypeAlias = Callable[[Callable[[Sequence[Any]], object], Sequence[Any]], Awaitable[None]]


class RateLimiter:
    """Limits shared by all replicas, decided and charged in one step by the database's clock.

    Single checks that arrive while a statement is in flight share the next one. Rejections are
    cached for up to a second, so another replica's refund or reset may be seen that late;
    `rejected_cache_size` bounds the number of cached keys. `clock`, for tests, returns microseconds
    since the epoch to use instead of the database's time. `decisions` counts what was decided.
    """

    def __init__(
        self,
        *,
        database: Database,
        policies: Mapping[str, Policy],
        rejected_cache_size: int,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rejected = RejectedCache(rejected_cache_size)
        self._held = HeldKeys(database)
        self._batcher = Batcher(run=self._decide, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING)
        self.decisions = Decisions()
        self.replace_policies(policies)

    def replace_policies(
        self,
        policies: Mapping[str, Policy],
        overrides: Iterable[Override] = (),
        clock: Clock | None = None,
    ) -> None:
        """Use these policies from the next check on; earlier consumption still counts.

        Overrides expire by `clock`.
        """
        self._policies = sorted(policies.values(), key=lambda policy: policy.name)
        self._limits = Limits(self._policies, overrides, clock or SystemClock())
        self._rejected.clear()
        self.decisions.follow(self._policies)

    def policies(self) -> list[Policy]:
        """Return the policies sorted by name."""
        return list(self._policies)

    def require(self, policy: str) -> None:
        """Return if there is such a policy; raises NotFound: POLICY_UNKNOWN."""
        if policy not in self._limits.plain:
            raise policy_unknown(policy)

    async def check(self, charges: Sequence[Charge], *, dry_run: bool = False) -> CheckResult:
        """Take all charges, or none if one does not fit; with `dry_run`, only return the result.

        `charges` are one or more, no two with the same policy and key. A rejection is a result, not
        an error.

        Raises:
            NotFound: POLICY_UNKNOWN.
            Overloaded: Too many checks are already waiting.
            StoreUnavailable: The database does not answer, or another session holds the row of a
                key for too long.
        """
        self._validate(charges)
        if self._limits.has_special and (fixed := self._limits.fixed_result(charges)):
            if not dry_run:
                self.decisions.add_result(fixed)
            return fixed
        if self._rejected and not dry_run:
            rejected = self._rejected.find(charges)
            if rejected is not None:
                self.decisions.add_result(rejected)
                return rejected
        if dry_run:
            return await self._batcher.submit(Check(charges, dry_run))
        return await self._held.run(charges, partial(self._batcher.submit, Check(charges)))

    async def check_many(self, checks: Sequence[Check], slices: Slices) -> list[CheckResult]:
        """Decide each check independently, as `check` does, and return the results in order.

        Nothing is taken if a policy is unknown.
        """
        limits = self._limits
        plain = limits.plain
        for charges, _ in checks:
            # A single charge needs no more than this.
            if len(charges) != 1 or charges[0].policy not in plain:
                self._validate(charges)
        results: list[_Outcome] = []
        for part in parts(checks):
            results += await self._decide_part(part, limits, slices.run)
        held = [i for i, result in enumerate(results) if isinstance(result, store.KeysHeld)]
        if held:
            later = await asyncio.gather(*(self.check(checks[i].charges) for i in held))
            for i, answer in zip(held, later, strict=True):
                results[i] = answer
        decided = []
        for result in results:
            if isinstance(result, Exception):
                raise result
            decided.append(result)
        return decided

    async def get(self, policy: str, key: str) -> Verdict:
        """Return the state of the key and whether a charge of 1 would fit; take nothing.

        Raises the same errors as `check`.
        """
        return (await self.check([Charge(policy, key)], dry_run=True)).verdicts[0]

    async def refund(self, policy: str, key: str, cost: int) -> Verdict:
        """Refund what a check took, at most what is in use; return the verdict as `get` does.

        Raises:
            NotFound: POLICY_UNKNOWN.
            StoreUnavailable: The database does not answer; the refund may have been made.
        """
        return (await self.refund_all([Charge(policy, key, cost)]))[0]

    async def refund_all(self, charges: Sequence[Charge]) -> list[Verdict]:
        """Refund several charges in one statement; return verdicts sorted by policy and key.

        Raises the same errors as `refund`.
        """
        ordered = sorted(charges)
        limits = [self._limit_of(charge) for charge in ordered]
        counted = [
            (charge, limit)
            for charge, limit in zip(ordered, limits, strict=True)
            if limit.fixed is None
        ]

        async def refund(connection: Connection) -> list[store.Row]:
            return await store.refund(
                connection,
                [limit.rule for _, limit in counted],
                [charge.key for charge, _ in counted],
                [charge.cost for charge, _ in counted],
                self._now(),
            )

        rows: list[store.Row] = []
        if counted:
            rows = await self._change(counted, refund)
        units = [charge._replace(cost=1) for charge in ordered]
        return list(result_of(limits, rows, units).verdicts)

    async def reset(self, policy: str, key: str) -> None:
        """Reset the key's consumption to zero; may raise the same errors as `refund`."""
        charge = Charge(policy, key)
        limit = self._limit_of(charge)
        await self._change([(charge, limit)], lambda c: store.reset(c, limit.rule, key))

    async def _change(
        self,
        changes: Sequence[tuple[Charge, Limit]],
        act: Callable[[Connection], Awaitable[Result]],
    ) -> Result:
        """Run a statement of its own on the rows of these charges, once none of them is held."""
        charges = [charge for charge, _ in changes]

        async def change() -> Result:
            async with self._database.connection() as connection:
                try:
                    return await act(connection)
                except store.KeysHeld:
                    rules = [limit.rule for _, limit in changes]
                    await self._held.find(connection, rules, [charge.key for charge in charges])
                    raise

        try:
            return await self._held.run(charges, change)
        finally:
            for policy, key, _ in charges:
                self._rejected.forget(policy, key)

    async def _decide(self, checks: Sequence[Check]) -> list[_Outcome]:
        return await self._decide_part(checks, self._limits, _at_once)

    async def _decide_part(
        self, checks: Sequence[Check], limits: Limits, apply: _Apply
    ) -> list[_Outcome]:
        find = self._rejected.find if self._rejected else None
        batch = Batch(
            checks=checks, limits=limits, held=self._held, decisions=self.decisions, find=find
        )
        await apply(batch.add, range(len(checks)))
        if batch.needs_database:
            with self._rejected.query() as query:
                async with self._database.connection() as connection:
                    await batch.run(connection, self._now())
                await apply(batch.settle_groups, batch.group_answers)
                await apply(batch.settle, batch.answers)
                await apply(partial(self._rejected.remember, query), batch.rejected)
        return batch.results()

    def _now(self) -> int | None:
        return self._clock() if self._clock else None

    def _limit_of(self, charge: Charge) -> Limit:
        limit = self._limits.find(charge.policy, charge.key)
        if limit is None:
            raise policy_unknown(charge.policy)
        return limit

    def _validate(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            self.require(charge.policy)
        if len(charges) != 1 and len({charge[:2] for charge in charges}) != max(len(charges), 1):
            raise ValueError("a check needs at least one charge, each with its own policy and key")


async def _at_once(function: Callable[[Sequence[Any]], object], items: Sequence[Any]) -> None:
    function(items)


def policies_from(settings: Mapping[str, PolicySettings]) -> dict[str, Policy]:
    """Return the policies defined in the settings; the service's own are always durable."""
    return {
        name: Policy(
            name,
            policy.requests,
            policy.window,
            policy.burst,
            policy.algorithm,
            durable=name.startswith(OWN_PREFIX)
            or (isinstance(policy, NamedPolicySettings) and policy.durable),
            unlimited=isinstance(policy, NamedPolicySettings) and policy.unlimited,
            shadow=isinstance(policy, NamedPolicySettings) and policy.shadow,
        )
        for name, policy in settings.items()
    }
