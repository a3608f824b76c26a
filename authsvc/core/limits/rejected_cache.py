"""Owns this process's cache of rejected charges, so that a flood of them costs no queries.

A rejection is used for as long as the database would repeat it, but for a second at most: that is
how late a refund or reset made through another replica may be seen here.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap
from typing import NamedTuple

from authsvc.models.limits import Charge, CheckResult, Verdict

_LONGEST = 1.0


class CachedVerdict(NamedTuple):
    """A verdict of a rejected check, with the charge's cost, and from and until when it is used."""

    verdict: Verdict
    cost: int
    received_at: float
    until: float


class PendingQuery(NamedTuple):
    """A query in flight: when it was sent, and the keys that have been forgotten since."""

    asked_at: float
    outdated: set[tuple[str, str]]


class RejectedCache:
    """The newest verdicts of rejected checks, at most `size` of them; 0 disables the cache.

    `clock` returns monotonic seconds.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        # In the order in which they were received.
        self._verdicts: dict[tuple[str, str], CachedVerdict] = {}
        self._queries: dict[int, PendingQuery] = {}

    def __bool__(self) -> bool:
        return bool(self._verdicts)

    def find(self, charges: Sequence[Charge]) -> CheckResult | None:
        """Return the check's result if it is known to be still rejected."""
        now = self._clock()
        verdicts = []
        for charge in charges:
            verdict = self._verdict(charge, now)
            if verdict is None:
                return None
            verdicts.append(verdict)
        if all(verdict.allowed for verdict in verdicts):
            return None
        return CheckResult(False, verdicts)

    @contextmanager
    def query(self) -> Iterator[PendingQuery]:
        """Surround a query whose rejections are to be remembered."""
        query = PendingQuery(self._clock(), set())
        self._queries[id(query)] = query
        try:
            yield query
        finally:
            self._queries.pop(id(query), None)

    def remember(
        self,
        query: PendingQuery,
        rejections: Iterable[tuple[Sequence[Charge], Sequence[Verdict]]],
    ) -> None:
        """Remember rejected checks: the charges of each, and the verdicts on them."""
        if not self._size or id(query) not in self._queries:
            return
        received_at = self._clock()
        for charge, verdict in chain.from_iterable(starmap(zip, rejections)):
            place = (charge.policy, charge.key)
            if place not in query.outdated:
                wait = min(verdict.retry_after or _LONGEST, _LONGEST)
                self._verdicts.pop(place, None)
                self._verdicts[place] = CachedVerdict(
                    verdict, charge.cost, received_at, query.asked_at + wait
                )
        self._shrink(received_at)

    def forget(self, policy: str, key: str) -> None:
        """Forget the verdict on the key, including one from a query in flight."""
        self._verdicts.pop((policy, key), None)
        for query in self._queries.values():
            query.outdated.add((policy, key))

    def clear(self) -> None:
        """Forget everything, including verdicts from queries in flight."""
        self._verdicts.clear()
        self._queries.clear()

    def _verdict(self, charge: Charge, now: float) -> Verdict | None:
        cached = self._verdicts.get((charge.policy, charge.key))
        if cached is None or now >= cached.until:
            return None
        verdict, cost, received_at, _ = cached
        # A cost below the rejected one may fit; a cost above one that fitted may not.
        if charge.cost > cost if verdict.allowed else charge.cost < cost:
            return None
        passed = now - received_at
        retry_after = verdict.retry_after
        return verdict._replace(
            retry_after=None if retry_after is None else max(retry_after - passed, 0.0),
            reset_after=max(verdict.reset_after - passed, 0.0),
        )

    def _shrink(self, now: float) -> None:
        while self._verdicts:
            oldest = next(iter(self._verdicts))
            if len(self._verdicts) <= self._size and self._verdicts[oldest].until > now:
                break
            del self._verdicts[oldest]
