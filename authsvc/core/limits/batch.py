"""Owns a batch of rate-limit checks: which statement each goes into, and what the rows mean.

Single charges go into one set-based statement, equal charges of a key as one row with a count.
Checks of several charges, and charges of a key that differ in cost, go into an all-or-none
statement, one after the other. Dry runs, and charges that can never fit, consume nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from authsvc.core.lib.decisions import Decisions
from authsvc.core.limits.held_keys import HeldKeys
from authsvc.core.limits.limits import Limit, Limits, result_of
from authsvc.errors import ServiceError, policy_unknown
from authsvc.models.limits import Charge, CheckResult, Verdict
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection

# Charges that one statement decides on, where those that are taken together count twice, as they
# cost twice as much. The driver encodes, and decodes, all of a statement in one turn of the loop.
_MAX_STATEMENT = 1_000
_new_tuple = tuple.__new__
_SECOND = 1_000_000


class Check(NamedTuple):
    """Charges to be taken all or none; with `dry_run`, none is."""

    charges: Sequence[Charge]
    dry_run: bool = False


def parts(checks: Iterable[Check]) -> Iterator[list[Check]]:
    """Yield the checks in order, as many at a time as fill a statement."""
    part: list[Check] = []
    size = 0
    for check in checks:
        part.append(check)
        size += len(check.charges) if len(check.charges) == 1 else 2 * len(check.charges)
        if size >= _MAX_STATEMENT:
            yield part
            part, size = [], 0
    if part:
        yield part


# Equal charges of a key, each a check of its own: their cost, and the indexes of the checks.
_Group: TypeAlias = list[int]


# What the database answered on a group.
_GroupAnswer: TypeAlias = tuple[Limit, str, _Group, store.Row]


class _Answer(NamedTuple):
    """What the database answered on a check: a row for each charge whose limit is not fixed."""

    check: int
    limits: Sequence[Limit]
    rows: Sequence[store.Row]


class Batch:
    """Checks that share statements, except those of held keys, whose result is KeysHeld.

    It takes three steps: all checks are added by their indexes, the statements run, and all
    answers are settled, and counted in `decisions`. `find` returns a check's result if it needs no
    statement, or None.
    """

    def __init__(
        self,
        *,
        checks: Sequence[Check],
        limits: Limits,
        held: HeldKeys,
        decisions: Decisions,
        find: Callable[[Sequence[Charge]], CheckResult | None] | None = None,
    ) -> None:
        self.group_answers: list[_GroupAnswer] = []
        self.answers: list[_Answer] = []
        self.rejected: list[tuple[Sequence[Charge], Sequence[Verdict]]] = []
        self._checks = checks
        self._limits = limits
        # Those of keys whose policy is special, so that none changes while the batch is decided.
        self._of_keys: dict[tuple[str, str], Limit] = {}
        self._held = held
        self._decisions = decisions
        self._find = find
        self._results: list[CheckResult | ServiceError | store.KeysHeld | None] = [None] * len(
            checks
        )
        # By policy and key.
        self._singles: dict[str, dict[str, _Group]] = {}
        self._atomic: list[int] = []
        self._peeks: list[int] = []

    @property
    def needs_database(self) -> bool:
        """Whether any check has yet to be decided by the database."""
        return bool(self._singles or self._atomic or self._peeks)

    def add(self, indexes: Iterable[int]) -> None:
        """Decide the checks with these indexes, or note which statement each goes into."""
        checks, singles, find = self._checks, self._singles, self._find
        limits = self._limits.plain
        held = self._held or None
        for index in indexes:
            check = checks[index]
            charges, dry_run = check
            if find is not None and not dry_run and (known := find(charges)) is not None:
                self._results[index] = known
                self._decisions.add_result(known)
                continue
            if held is not None and not dry_run and held.include(charges):
                self._results[index] = store.KeysHeld()
                continue
            if dry_run or len(charges) != 1:
                self._add_other(index, check)
                continue
            policy, key, cost = charges[0]
            limit = limits.get(policy)
            if limit is None or cost > limit.max_cost:
                self._add_other(index, check)
                continue
            groups = singles.get(policy)
            if groups is None:
                groups = singles[policy] = {}
            group = groups.get(key)
            if group is None:
                groups[key] = [cost, index]
            elif group[0] == cost:
                group.append(index)
            else:
                self._atomic.append(index)

    def _add_single(self, groups: dict[str, _Group], key: str, cost: int, index: int) -> None:
        group = groups.get(key)
        if group is None:
            groups[key] = [cost, index]
        elif group[0] == cost:
            group.append(index)
        else:
            self._atomic.append(index)

    def _limit_of(self, charge: Charge) -> Limit:
        """Return the limit of a charge whose policy is known to exist."""
        policy, key, _ = charge
        limit = self._limits.plain[policy]
        if limit.max_cost > 0:
            return limit
        return self._of_keys[policy, key]

    async def run(self, connection: Connection, at_us: int | None) -> None:
        """Run the statements, at `at_us` if a test sets it, else at the database's own time."""
        try:
            await self._charge(connection, at_us)
        except store.KeysHeld:
            await self._held.find(connection, *self._rows())
            self._set_aside(self._held.include)
            try:
                await self._charge(connection, at_us)
            except store.KeysHeld:
                # Held by then, or contended; the other batches don't wait for it.
                self._set_aside(lambda _: True)
        if self._peeks:
            charges, limits, sizes = self._charges(self._peeks)
            rows = await store.look(
                connection,
                [limit.rule for limit in limits],
                [charge.key for charge in charges],
                [charge.cost for charge in charges],
                at_us,
            )
            self._answer(self._peeks, sizes, rows)

    def settle_groups(self, answers: Iterable[_GroupAnswer]) -> None:
        """Note the results of the checks that some of `group_answers` are about."""
        checks, results, rejected = self._checks, self._results, self.rejected
        # Of the last rule. The answers come policy by policy, so it is seldom another one.
        counted: store.Rule | None = None
        charged = taken = 0
        for limit, key, group, (granted, left, retry_us, reset_us) in answers:
            rule, max_cost, is_burst, _ = limit
            policy, cost = rule.policy, group[0]
            if rule is not counted:
                self._count(counted, charged, taken)
                counted, charged, taken = rule, 0, 0
            charged += len(group) - 1
            taken += granted
            reset_after = reset_us / _SECOND
            # First come, first served: each verdict shows what was left after its own charge.
            remaining = left + granted * cost
            for index in group[1:]:
                if remaining > left:
                    remaining -= cost
                    allowed, retry_after = True, 0.0
                    shadow_rejected = False
                else:
                    allowed = shadow_rejected = rule.shadow
                    retry_after = retry_us / _SECOND
                values = (
                    policy, key, allowed, max_cost, remaining, retry_after, reset_after, is_burst,
                    shadow_rejected,
                )  # fmt: skip
                # A named tuple's own constructor takes three times as long.
                verdicts = (_new_tuple(Verdict, values),)
                results[index] = _new_tuple(CheckResult, (allowed, verdicts))
                if not allowed:
                    rejected.append((checks[index].charges, verdicts))
        self._count(counted, charged, taken)

    def settle(self, answers: Iterable[_Answer]) -> None:
        """Note the results of the checks that some of `answers` are about."""
        for index, limits, rows in answers:
            check = self._checks[index]
            result = result_of(limits, rows, check.charges)
            self._results[index] = result
            if check.dry_run:
                continue
            self._decisions.add_result(result)
            if not result.allowed:
                self.rejected.append((check.charges, result.verdicts))

    def results(self) -> list[CheckResult | ServiceError | store.KeysHeld]:
        """Return for each check, in order, its result or the error to raise."""
        return [result for result in self._results if result is not None]

    def _add_other(self, index: int, check: Check) -> None:
        charges = check.charges
        limits = []
        for charge in charges:
            limit = self._find_limit(charge)
            if limit is None:
                self._results[index] = policy_unknown(charge.policy)
                return
            limits.append(limit)
        if all(limit.fixed is not None for limit in limits):
            self._results[index] = result = result_of(limits, (), charges)
            if not check.dry_run:
                self._decisions.add_result(result)
        elif check.dry_run or any(
            limit.can_refuse(charge.cost) for limit, charge in zip(limits, charges, strict=True)
        ):
            self._peeks.append(index)
        elif len(charges) == 1 and charges[0].cost <= limits[0].max_cost:
            policy, key, cost = charges[0]
            self._add_single(self._singles.setdefault(policy, {}), key, cost, index)
        else:
            self._atomic.append(index)

    def _count(self, rule: store.Rule | None, charged: int, taken: int) -> None:
        if rule is not None:
            self._decisions.add(rule.policy, taken=taken, unfit=charged - taken, shadow=rule.shadow)

    def _find_limit(self, charge: Charge) -> Limit | None:
        policy, key, _ = charge
        limit = self._limits.plain.get(policy)
        if limit is None or limit.max_cost > 0:
            return limit
        limit = self._of_keys.get((policy, key)) or self._limits.find(policy, key)
        if limit is not None:
            self._of_keys[policy, key] = limit
        return limit

    async def _charge(self, connection: Connection, at_us: int | None) -> None:
        """Run the charging statements, each at most once successfully."""
        if self._singles:
            await self._charge_singles(connection, at_us)
            self._singles = {}
        if self._atomic:
            charges, limits, sizes = self._charges(self._atomic)
            rows = await store.charge_together(
                connection,
                [limit.rule for limit in limits],
                [charge.key for charge in charges],
                [charge.cost for charge in charges],
                sizes,
                at_us,
            )
            self._answer(self._atomic, sizes, rows)
            self._atomic = []

    def _rows(self) -> tuple[list[store.Rule], list[str]]:
        """Return the rules and keys of the rows that are still to be charged."""
        indexes = self._atomic + [
            group[1] for by_key in self._singles.values() for group in by_key.values()
        ]
        charges, limits, _ = self._charges(indexes)
        rules = {
            (charge.policy, charge.key): limit.rule
            for charge, limit in zip(charges, limits, strict=True)
        }
        return list(rules.values()), [key for _, key in rules]

    def _set_aside(self, is_held: Callable[[Sequence[Charge]], bool]) -> None:
        """Give the checks of held keys the result KeysHeld, and leave them out of statements."""

        def set_aside(index: int) -> bool:
            if not is_held(self._checks[index].charges):
                return False
            self._results[index] = store.KeysHeld()
            return True

        self._atomic = [index for index in self._atomic if not set_aside(index)]
        singles: dict[str, dict[str, _Group]] = {}
        for policy, by_key in self._singles.items():
            for key, group in by_key.items():
                if not all(set_aside(index) for index in group[1:]):
                    singles.setdefault(policy, {})[key] = group
        self._singles = singles

    async def _charge_singles(self, connection: Connection, at_us: int | None) -> None:
        kinds: dict[tuple[store.Rule, int, int], int] = {}
        places: list[int] = []
        keys: list[str] = []
        groups: list[_Group] = []
        limits: list[Limit] = []
        for policy, by_key in sorted(self._singles.items()):
            names = sorted(by_key)
            keys += names
            limit = self._limits.plain[policy]
            is_special = limit.max_cost == 0
            limits += (
                [self._of_keys[policy, name] for name in names]
                if is_special
                else [limit] * len(names)
            )
            rule = limit.rule
            for name in names:
                if is_special:
                    rule = self._of_keys[policy, name].rule
                group = by_key[name]
                groups.append(group)
                kind = (rule, group[0], len(group) - 1)
                place = kinds.get(kind)
                if place is None:
                    place = kinds[kind] = len(kinds)
                places.append(place)
        rows = await store.charge(
            connection,
            [store.Kind(*kind) for kind in kinds],
            places,
            keys,
            at_us,
        )
        self.group_answers += zip(limits, keys, groups, rows, strict=True)

    def _charges(self, indexes: Iterable[int]) -> tuple[list[Charge], list[Limit], list[int]]:
        """Return the charges that are counted, their limits, and how many each check has."""
        charges: list[Charge] = []
        limits: list[Limit] = []
        sizes = []
        for index in indexes:
            before = len(charges)
            for charge in self._checks[index].charges:
                limit = self._limit_of(charge)
                if limit.fixed is None:
                    charges.append(charge)
                    limits.append(limit)
            sizes.append(len(charges) - before)
        return charges, limits, sizes

    def _answer(
        self, indexes: Iterable[int], sizes: Sequence[int], rows: Sequence[store.Row]
    ) -> None:
        start = 0
        for index, size in zip(indexes, sizes, strict=True):
            limits = [self._limit_of(charge) for charge in self._checks[index].charges]
            self.answers.append(_Answer(index, limits, rows[start : start + size]))
            start += size
