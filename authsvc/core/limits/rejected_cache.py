"""Owns what this process remembers of rejected charges, so that a flood of them costs no queries.

A rejection is used for as long as the database would have repeated it, but for a second at most:
that is how late a refund or reset made through another replica may be seen here.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from authsvc.models.limits import Charge, CheckResult, Verdict

_LONGEST = 1.0


class _Memory(NamedTuple):
    verdict: Verdict
    cost: int
    told: float
    until: float


class Flight(NamedTuple):
    """A question to the database: when it was asked, and what has changed since."""

    asked: float
    outdated: set[tuple[str, str]]


class Rejections:
    """The newest verdicts of rejected checks, `size` at the most; 0: none is remembered.

    `clock` tells monotonic seconds.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        # In the order in which they were told.
        self._memories: dict[tuple[str, str], _Memory] = {}
        self._flights: dict[int, Flight] = {}

    def __bool__(self) -> bool:
        return bool(self._memories)

    def find(self, charges: Sequence[Charge]) -> CheckResult | None:
        """Return the check's result if it is known to be rejected still."""
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
    def flight(self) -> Iterator[Flight]:
        """Surround a question to the database, whose rejections are then to be remembered."""
        flight = Flight(self._clock(), set())
        self._flights[id(flight)] = flight
        try:
            yield flight
        finally:
            del self._flights[id(flight)]

    def remember(
        self, flight: Flight, charges: Sequence[Charge], verdicts: Sequence[Verdict]
    ) -> None:
        """Remember the verdicts on a rejected check, one for each charge."""
        if not self._size:
            return
        told = self._clock()
        for charge, verdict in zip(charges, verdicts, strict=True):
            place = (charge.policy, charge.key)
            if place not in flight.outdated:
                wait = min(verdict.retry_after or _LONGEST, _LONGEST)
                self._memories.pop(place, None)
                self._memories[place] = _Memory(verdict, charge.cost, told, flight.asked + wait)
        self._shrink(told)

    def forget(self, policy: str, key: str) -> None:
        """Forget what is known of the key, also what is just being told."""
        self._memories.pop((policy, key), None)
        for flight in self._flights.values():
            flight.outdated.add((policy, key))

    def clear(self) -> None:
        """Forget everything."""
        self._memories.clear()

    def _verdict(self, charge: Charge, now: float) -> Verdict | None:
        memory = self._memories.get((charge.policy, charge.key))
        if memory is None or now >= memory.until:
            return None
        verdict, cost, told, _ = memory
        # What is less than was rejected may fit; what is more than fitted may not.
        if charge.cost > cost if verdict.allowed else charge.cost < cost:
            return None
        passed = now - told
        retry_after = verdict.retry_after
        return verdict._replace(
            retry_after=None if retry_after is None else max(retry_after - passed, 0.0),
            reset_after=max(verdict.reset_after - passed, 0.0),
        )

    def _shrink(self, now: float) -> None:
        while self._memories:
            oldest = next(iter(self._memories))
            if len(self._memories) <= self._size and self._memories[oldest].until > now:
                break
            del self._memories[oldest]
