"""Owns a batch of rate-limit checks: which statement each goes into, and what the answers mean.

Single charges go into one set-based statement, equal ones of a key as one row with a count. Checks
of several charges, and charges of a key that differ in cost, go into an all-or-none statement, one
after the other. Dry runs, and charges that can never fit, are only looked at.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from authsvc.errors import ServiceError, policy_unknown
from authsvc.models.limits import Charge, CheckResult, Verdict
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection

_SECOND = 1_000_000


class Check(NamedTuple):
    """Charges of which all are to be taken or none; with `dry_run` none is."""

    charges: Sequence[Charge]
    dry_run: bool = False


class Limit(NamedTuple):
    """A policy in use: as the database takes it, and the max_cost that it can grant at once."""

    rule: store.Rule
    max_cost: int


class Batch:
    """Checks that share statements; `find` tells the result of a check that needs none, or None."""

    def __init__(
        self,
        checks: Sequence[Check],
        limits: Mapping[str, Limit],
        find: Callable[[Sequence[Charge]], CheckResult | None] | None = None,
    ) -> None:
        self.rejected: list[tuple[Sequence[Charge], Sequence[Verdict]]] = []
        self._checks = checks
        self._limits = limits
        self._results: list[CheckResult | ServiceError | None] = [None] * len(checks)
        # By policy and key: the cost, and the numbers of the checks that ask for it.
        self._singles: dict[str, dict[str, list[int]]] = {}
        self._atomic: list[int] = []
        self._peeks: list[int] = []
        self._sort(find)

    @property
    def needs_database(self) -> bool:
        """Whether anything is left to be asked."""
        return bool(self._singles or self._atomic or self._peeks)

    async def run(self, connection: Connection, at_us: int | None) -> None:
        """Ask the database, at a time made up by a test or at its own."""
        if self._singles:
            await self._run_singles(connection, at_us)
        if self._atomic:
            charges, limits = self._charges(self._atomic)
            rows = await store.charge_together(
                connection,
                [limit.rule for limit in limits],
                [charge.key for charge in charges],
                [charge.cost for charge in charges],
                [len(self._checks[index].charges) for index in self._atomic],
                at_us,
            )
            self._settle(self._atomic, limits, rows)
        if self._peeks:
            charges, limits = self._charges(self._peeks)
            rows = await store.look(
                connection,
                [limit.rule for limit in limits],
                [charge.key for charge in charges],
                [charge.cost for charge in charges],
                at_us,
            )
            self._settle(self._peeks, limits, rows)

    def results(self) -> list[CheckResult | ServiceError]:
        """Return a result for each check in order, or the error that it ends with."""
        return [result for result in self._results if result is not None]

    def _sort(self, find: Callable[[Sequence[Charge]], CheckResult | None] | None) -> None:
        limits, singles = self._limits, self._singles
        for index, check in enumerate(self._checks):
            charges, dry_run = check
            if find is not None and not dry_run and (known := find(charges)) is not None:
                self._results[index] = known
                continue
            if dry_run or len(charges) != 1:
                self._sort_other(index, check)
                continue
            (charge,) = charges
            limit = limits.get(charge.policy)
            if limit is None or charge.cost > limit.max_cost:
                self._sort_other(index, check)
                continue
            groups = singles.get(charge.policy)
            if groups is None:
                groups = singles[charge.policy] = {}
            group = groups.get(charge.key)
            if group is None:
                groups[charge.key] = [charge.cost, index]
            elif group[0] == charge.cost:
                group.append(index)
            else:
                self._atomic.append(index)

    def _sort_other(self, index: int, check: Check) -> None:
        charges, limits = check.charges, self._limits
        for charge in charges:
            if charge.policy not in limits:
                self._results[index] = policy_unknown(charge.policy)
                return
        if check.dry_run or any(charge.cost > limits[charge.policy].max_cost for charge in charges):
            self._peeks.append(index)
        else:
            self._atomic.append(index)

    async def _run_singles(self, connection: Connection, at_us: int | None) -> None:
        kinds: dict[tuple[str, int, int], int] = {}
        places: list[int] = []
        keys: list[str] = []
        groups: list[list[int]] = []
        limits: list[Limit] = []
        for policy, by_key in sorted(self._singles.items()):
            names = sorted(by_key)
            keys += names
            limits += [self._limits[policy]] * len(names)
            for name in names:
                group = by_key[name]
                groups.append(group)
                kind = (policy, group[0], len(group) - 1)
                place = kinds.get(kind)
                if place is None:
                    place = kinds[kind] = len(kinds)
                places.append(place)
        rows = await store.charge(
            connection,
            [store.Kind(self._limits[policy].rule, cost, count) for policy, cost, count in kinds],
            places,
            keys,
            at_us,
        )
        for limit, key, group, row in zip(limits, keys, groups, rows, strict=True):
            self._settle_group(limit.rule, key, group, row)

    def _settle_group(self, rule: store.Rule, key: str, group: list[int], row: store.Row) -> None:
        granted, remaining, retry_us, reset_us = row
        cost, *indexes = group
        reset_after = reset_us / _SECOND
        # Who came first is granted first, and is told what he left for the others.
        remaining += granted * cost
        for index in indexes:
            if granted:
                granted -= 1
                remaining -= cost
                verdict = Verdict(
                    rule.policy, key, True, rule.requests, remaining, 0.0, reset_after
                )
                self._results[index] = CheckResult(True, (verdict,))
            else:
                retry_after = retry_us / _SECOND
                verdict = Verdict(
                    rule.policy, key, False, rule.requests, remaining, retry_after, reset_after
                )
                self._results[index] = CheckResult(False, (verdict,))
                self.rejected.append((self._checks[index].charges, (verdict,)))

    def _charges(self, indexes: Iterable[int]) -> tuple[list[Charge], list[Limit]]:
        charges = [charge for index in indexes for charge in self._checks[index].charges]
        return charges, [self._limits[charge.policy] for charge in charges]

    def _settle(
        self, indexes: Iterable[int], limits: Iterable[Limit], rows: Iterable[store.Row]
    ) -> None:
        answers = zip(limits, rows, strict=True)
        for index in indexes:
            check = self._checks[index]
            verdicts = [verdict_of(*next(answers), charge) for charge in check.charges]
            allowed = all(verdict.allowed for verdict in verdicts)
            self._results[index] = CheckResult(allowed, verdicts)
            if not allowed and not check.dry_run:
                self.rejected.append((check.charges, verdicts))


def verdict_of(limit: Limit, row: store.Row, charge: Charge) -> Verdict:
    """Return what a row of the store says of a charge."""
    granted, remaining, retry_us, reset_us = row
    allowed = granted > 0 or retry_us == 0
    if allowed:
        retry_after: float | None = 0.0
    else:
        retry_after = retry_us / _SECOND if charge.cost <= limit.max_cost else None
    return Verdict(
        charge.policy,
        charge.key,
        allowed,
        limit.rule.requests,
        remaining,
        retry_after,
        reset_us / _SECOND,
    )
