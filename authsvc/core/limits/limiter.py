"""Owns the rate limiter: which policies there are, and what is asked of the database when."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from authsvc.config import PolicySettings
from authsvc.core.lib.batching import Batcher
from authsvc.core.limits.batch import Batch, Check, Limit, verdict_of
from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.errors import ServiceError, policy_unknown
from authsvc.models.limits import Algorithm, Charge, CheckResult, Policy, Verdict
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Database

__all__ = ["Check", "RateLimiter", "policies_from"]

# A statement of this many keys takes a few milliseconds, which the others wait for.
_MAX_BATCH = 500
_MAX_WAITING = 20_000
_MICROSECOND = timedelta(microseconds=1)


class RateLimiter:
    """Limits that all replicas share, decided and charged in one step by the database's clock.

    Single checks that arrive while a statement is in query share the next one. What was rejected
    is remembered for up to a second, so another replica's refund or reset may be seen that late;
    `rejected_cache_size` bounds how many keys are. `clock` is for tests: microseconds since the
    epoch, told instead of the database's time.
    """

    def __init__(
        self,
        database: Database,
        policies: Mapping[str, Policy],
        rejected_cache_size: int,
        *,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rejected = RejectedCache(rejected_cache_size)
        self._batcher = Batcher(self._decide, _MAX_BATCH, _MAX_WAITING)
        self.replace_policies(policies)

    def replace_policies(self, policies: Mapping[str, Policy]) -> None:
        """Use these policies from the next check on; what was used before stays used."""
        self._policies = sorted(policies.values(), key=lambda policy: policy.name)
        self._limits = {name: _limit(policy) for name, policy in policies.items()}
        self._rejected.clear()

    def policies(self) -> list[Policy]:
        """Return the policies in the order of their names."""
        return list(self._policies)

    async def check(self, charges: Sequence[Charge], *, dry_run: bool = False) -> CheckResult:
        """Take every charge, or none if one does not fit; with `dry_run` only say what would be.

        `charges` are one or more, no two of the same policy and key. A refusal is an answer.

        Raises:
            NotFound: POLICY_UNKNOWN.
            Overloaded: Too many checks wait already.
            StoreUnavailable: The database does not answer.
        """
        self._validate(charges)
        if self._rejected and not dry_run:
            rejected = self._rejected.find(charges)
            if rejected is not None:
                return rejected
        return await self._batcher.submit(Check(charges, dry_run))

    async def check_many(self, checks: Sequence[Check]) -> list[CheckResult]:
        """Decide each of the checks on its own, as `check`, and return their results in order.

        Nothing is taken if a policy is unknown.
        """
        for check in checks:
            self._validate(check.charges)
        results = []
        for result in await self._decide(checks):
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    async def get(self, policy: str, key: str) -> Verdict:
        """Return how the key stands, and whether a charge of 1 would fit; takes nothing.

        Raises as `check`.
        """
        return (await self.check([Charge(policy, key)], dry_run=True)).verdicts[0]

    async def refund(self, policy: str, key: str, cost: int) -> Verdict:
        """Give back what a check took, at most what is in use; return as `get`.

        Raises:
            NotFound: POLICY_UNKNOWN.
            StoreUnavailable: The database does not answer; it may have been given back.
        """
        return (await self.refund_all([Charge(policy, key, cost)]))[0]

    async def refund_all(self, charges: Sequence[Charge]) -> list[Verdict]:
        """Give back several charges in one statement; return, in order of policy and key, as `get`.

        Raises as `refund`.
        """
        ordered = sorted(charges)
        limits = [self._limit_of(charge.policy) for charge in ordered]
        try:
            async with self._database.connection() as connection:
                rows = await store.refund(
                    connection,
                    [limit.rule for limit in limits],
                    [charge.key for charge in ordered],
                    [charge.cost for charge in ordered],
                    self._now(),
                )
        finally:
            for charge in ordered:
                self._rejected.forget(charge.policy, charge.key)
        return [
            verdict_of(limit, row, charge._replace(cost=1))
            for limit, row, charge in zip(limits, rows, ordered, strict=True)
        ]

    async def reset(self, policy: str, key: str) -> None:
        """Forget all that the key has used; raises as `refund`."""
        self._limit_of(policy)
        try:
            async with self._database.connection() as connection:
                await store.reset(connection, policy, key)
        finally:
            self._rejected.forget(policy, key)

    async def _decide(self, checks: Sequence[Check]) -> list[CheckResult | ServiceError]:
        batch = Batch(checks, self._limits, self._rejected.find if self._rejected else None)
        if batch.needs_database:
            with self._rejected.query() as query:
                async with self._database.connection() as connection:
                    await batch.run(connection, self._now())
                for charges, verdicts in batch.rejected:
                    self._rejected.remember(query, charges, verdicts)
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
            raise ValueError("a check has one charge or more, each of another policy or key")


def policies_from(settings: Mapping[str, PolicySettings]) -> dict[str, Policy]:
    """Return the policies that the settings name."""
    return {
        name: Policy(name, policy.requests, policy.window, policy.burst, policy.algorithm)
        for name, policy in settings.items()
    }


def _limit(policy: Policy) -> Limit:
    requests, window_us = policy.requests, policy.window // _MICROSECOND
    # What can be granted within a second anyway; a burst of that much or more never binds.
    within_a_second = {
        Algorithm.TOKEN_BUCKET: requests + requests * 1_000_000 // window_us,
        Algorithm.SLIDING_WINDOW: requests,
        Algorithm.FIXED_WINDOW: 2 * requests,
    }[policy.algorithm]
    burst = policy.burst if policy.burst < within_a_second else 0
    rule = store.Rule(policy.name, policy.algorithm.value, requests, window_us, burst)
    return Limit(rule, min(requests, burst or requests))
