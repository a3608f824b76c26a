"""Owns the rate limiter: its policies, and when it queries the database."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar

from authsvc.config import NamedPolicySettings, PolicySettings
from authsvc.core.lib.batching import Batcher
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.batch import Batch, Check, Limit, parts, verdict_of
from authsvc.core.limits.held_keys import HeldKeys
from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.errors import ServiceError, policy_unknown
from authsvc.models.limits import OWN_PREFIX, Algorithm, Charge, CheckResult, Policy, Verdict
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection, Database

__all__ = ["Check", "RateLimiter", "policies_from"]

# A statement with this many keys takes a few milliseconds, during which the others wait.
_MAX_BATCH = 500
_MAX_WAITING = 20_000
_MICROSECOND = timedelta(microseconds=1)

Result = TypeVar("Result")
_Outcome: TypeAlias = CheckResult | ServiceError | store.KeysHeld
# Applies a function to a sequence, as a whole or to one part after another.
_Apply: TypeAlias = Callable[[Callable[[Sequence[Any]], object], Sequence[Any]], Awaitable[None]]


class RateLimiter:
    """Limits shared by all replicas, decided and charged in one step by the database's clock.

    Single checks that arrive while a statement is in flight share the next one. Rejections are
    cached for up to a second, so another replica's refund or reset may be seen that late;
    `rejected_cache_size` bounds the number of cached keys. `clock`, for tests, returns microseconds
    since the epoch to use instead of the database's time.
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
        self.replace_policies(policies)

    def replace_policies(self, policies: Mapping[str, Policy]) -> None:
        """Use these policies from the next check on; earlier consumption still counts."""
        self._policies = sorted(policies.values(), key=lambda policy: policy.name)
        self._limits = {name: _limit(policy) for name, policy in policies.items()}
        self._rejected.clear()

    def policies(self) -> list[Policy]:
        """Return the policies sorted by name."""
        return list(self._policies)

    def require(self, policy: str) -> None:
        """Return if there is such a policy; raises NotFound: POLICY_UNKNOWN."""
        self._limit_of(policy)

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
        if self._rejected and not dry_run:
            rejected = self._rejected.find(charges)
            if rejected is not None:
                return rejected
        if dry_run:
            return await self._batcher.submit(Check(charges, dry_run))
        return await self._held.run(charges, partial(self._batcher.submit, Check(charges)))

    async def check_many(self, checks: Sequence[Check], slices: Slices) -> list[CheckResult]:
        """Decide each check independently, as `check` does, and return the results in order.

        Nothing is taken if a policy is unknown.
        """
        limits = self._limits
        for charges, _ in checks:
            # A single charge needs no more than this.
            if len(charges) != 1 or charges[0].policy not in limits:
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
        limits = [self._limit_of(charge.policy) for charge in ordered]

        async def refund(
            connection: Connection, rules: Sequence[store.Rule], keys: Sequence[str]
        ) -> list[store.Row]:
            costs = [charge.cost for charge in ordered]
            return await store.refund(connection, rules, keys, costs, self._now())

        try:
            rows = await self._change(ordered, refund)
        finally:
            for charge in ordered:
                self._rejected.forget(charge.policy, charge.key)
        return [
            verdict_of(limit, row, charge._replace(cost=1))
            for limit, row, charge in zip(limits, rows, ordered, strict=True)
        ]

    async def reset(self, policy: str, key: str) -> None:
        """Reset the key's consumption to zero; may raise the same errors as `refund`."""
        rule = self._limit_of(policy).rule
        try:
            await self._change([Charge(policy, key)], lambda c, *_: store.reset(c, rule, key))
        finally:
            self._rejected.forget(policy, key)

    async def _change(
        self,
        charges: Sequence[Charge],
        act: Callable[[Connection, Sequence[store.Rule], Sequence[str]], Awaitable[Result]],
    ) -> Result:
        """Run a statement of its own on the rows of these charges, once none of them is held."""
        rules = [self._limit_of(charge.policy).rule for charge in charges]
        keys = [charge.key for charge in charges]

        async def change() -> Result:
            async with self._database.connection() as connection:
                try:
                    return await act(connection, rules, keys)
                except store.KeysHeld:
                    await self._held.find(connection, rules, keys)
                    raise

        return await self._held.run(charges, change)

    async def _decide(self, checks: Sequence[Check]) -> list[_Outcome]:
        return await self._decide_part(checks, self._limits, _at_once)

    async def _decide_part(
        self, checks: Sequence[Check], limits: Mapping[str, Limit], apply: _Apply
    ) -> list[_Outcome]:
        find = self._rejected.find if self._rejected else None
        batch = Batch(checks=checks, limits=limits, held=self._held, find=find)
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

    def _limit_of(self, policy: str) -> Limit:
        limit = self._limits.get(policy)
        if limit is None:
            raise policy_unknown(policy)
        return limit

    def _validate(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            if charge.policy not in self._limits:
                raise policy_unknown(charge.policy)
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
        )
        for name, policy in settings.items()
    }


def _limit(policy: Policy) -> Limit:
    requests, window_us = policy.requests, policy.window // _MICROSECOND
    # The most that can be granted within a second anyway: a burst at or above it has no effect.
    within_a_second = {
        Algorithm.TOKEN_BUCKET: requests + requests * 1_000_000 // window_us,
        Algorithm.SLIDING_WINDOW: requests,
        Algorithm.FIXED_WINDOW: 2 * requests,
    }[policy.algorithm]
    burst = policy.burst if policy.burst < within_a_second else 0
    rule = store.Rule(
        policy.name, policy.algorithm.value, requests, window_us, burst, policy.durable
    )
    is_burst = 0 < burst < requests
    return Limit(rule, burst if is_burst else requests, is_burst)
