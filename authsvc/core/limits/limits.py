"""Owns limits in use: what policies and overrides mean for a key, ready for statements."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from authsvc.models.clock import Clock
from authsvc.models.limits import (
    UNLIMITED,
    Algorithm,
    Charge,
    CheckResult,
    Effect,
    Override,
    Policy,
    Verdict,
)
from authsvc.store import rate_limits as store

_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000


class Limit(NamedTuple):
    """A limit in use: its rule for the database, and the most it can grant at once.

    That is the rule's burst if `is_burst`, else its requests. If `fixed` is not None, it is the
    answer to every charge, and the database is not asked.
    """

    rule: store.Rule
    max_cost: int
    is_burst: bool
    fixed: bool | None = None

    def can_refuse(self, cost: int) -> bool:
        """Return whether it refuses a charge of this cost, however little is in use."""
        return not self.rule.shadow and (self.fixed is False or cost > self.max_cost)


class _Special(NamedTuple):
    """A policy that needs a closer look: its limit, and those of single keys until a time."""

    limit: Limit
    of_keys: Mapping[str, tuple[Limit, datetime | None]]


class Limits:
    """The limits of all policies, by name.

    `plain` has them all; those whose `max_cost` is 0 fit no charge, and `find` has the limit of the
    key. So ordinary policies cost nothing for overrides, zero and unlimited policies.
    """

    def __init__(
        self, policies: Iterable[Policy], overrides: Iterable[Override], clock: Clock
    ) -> None:
        self._clock = clock
        self.plain: dict[str, Limit] = {}
        self._special: dict[str, _Special] = {}
        of_policies: dict[str, dict[str, tuple[Limit, datetime | None]]] = {}
        by_name = {policy.name: policy for policy in policies}
        for override in overrides:
            if (policy := by_name.get(override.policy)) is not None:
                of_policies.setdefault(policy.name, {})[override.key] = (
                    _limit_of_override(policy, override),
                    override.expire_time,
                )
        for name, policy in by_name.items():
            limit = _limit(policy)
            if limit.fixed is not None or name in of_policies:
                self._special[name] = _Special(limit, of_policies.get(name, {}))
                limit = limit._replace(max_cost=0)
            self.plain[name] = limit

    @property
    def has_special(self) -> bool:
        """Whether any policy needs `find`."""
        return bool(self._special)

    def find(self, policy: str, key: str) -> Limit | None:
        """Return the limit of a key, or None if there is no such policy."""
        special = self._special.get(policy)
        if special is None:
            return self.plain.get(policy)
        limit, expire_time = special.of_keys.get(key, (special.limit, None))
        if expire_time is not None and expire_time <= self._clock.now():
            return special.limit
        return limit

    def fixed_result(self, charges: Sequence[Charge]) -> CheckResult | None:
        """Return the result of a check that needs no statement, as all of its limits are fixed."""
        limits = []
        for policy, key, _ in charges:
            limit = self.find(policy, key)
            if limit is None or limit.fixed is None:
                return None
            limits.append(limit)
        return result_of(limits, (), charges)


def result_of(
    limits: Sequence[Limit], rows: Iterable[store.Row], charges: Sequence[Charge]
) -> CheckResult:
    """Return a check's result from the rows for those of its charges whose limit is not fixed."""
    left = iter(rows)
    verdicts = [
        verdict_of(limit, next(left), charge)
        if limit.fixed is None
        else _fixed_verdict(limit, charge)
        for limit, charge in zip(limits, charges, strict=True)
    ]
    return CheckResult(all(verdict.allowed for verdict in verdicts), verdicts)


def verdict_of(limit: Limit, row: store.Row, charge: Charge) -> Verdict:
    """Return the verdict on a charge from the row that the store returned for it."""
    granted, remaining, retry_us, reset_us = row
    fits = granted > 0 or retry_us == 0
    if fits:
        retry_after: float | None = 0.0
    else:
        retry_after = retry_us / _SECOND if charge.cost <= limit.max_cost else None
    return Verdict(
        charge.policy,
        charge.key,
        fits or limit.rule.shadow,
        limit.max_cost,
        remaining,
        retry_after,
        reset_us / _SECOND,
        limit.is_burst,
        not fits and limit.rule.shadow,
    )


def _fixed_verdict(limit: Limit, charge: Charge) -> Verdict:
    policy, key, _ = charge
    if limit.fixed:
        return Verdict(policy, key, True, UNLIMITED, UNLIMITED, 0.0, 0.0)
    shadow = limit.rule.shadow
    return Verdict(policy, key, shadow, 0, 0, None, 0.0, shadow_rejected=shadow)


def _limit_of_override(policy: Policy, override: Override) -> Limit:
    if override.effect is Effect.NUMBERS:
        numbers = Policy(
            policy.name,
            override.requests,
            override.window or policy.window,
            override.burst,
            policy.algorithm,
            durable=policy.durable,
            shadow=policy.shadow,
        )
        return _limit(numbers)
    return _limit(policy)._replace(fixed=override.effect is Effect.ALLOW)


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
        policy.name,
        policy.algorithm.value,
        requests,
        window_us,
        burst,
        policy.durable,
        policy.shadow,
    )
    is_burst = 0 < burst < requests
    fixed = True if policy.unlimited else (False if requests == 0 else None)
    return Limit(rule, burst if is_burst else requests, is_burst, fixed)
