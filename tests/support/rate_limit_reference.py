"""The rate limiter's arithmetic in plain Python, as a reference for tests: slow, exact, obvious."""

from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from authsvc.store.rate_limits import Rule

_SLOTS = 16
_SECOND = 1_000_000


class Answer(NamedTuple):
    """A result like a row of the store's; `retry_us` is None for what never fits."""

    granted: int
    remaining: int
    retry_us: int | None
    reset_us: int


class TokenBucket:
    """Tracks when the bucket will be full again (GCRA), as a fraction of a microsecond."""

    def __init__(self, requests: int, window_us: int) -> None:
        self._interval = Fraction(window_us, requests)
        self._full = Fraction(0)

    def used(self, now: int) -> int:
        missing = max(self._full - now, Fraction(0)) / self._interval
        return -(-missing.numerator // missing.denominator)

    def add(self, amount: int, now: int) -> None:
        self._full = max(self._full, Fraction(now)) + amount * self._interval

    def refund(self, amount: int, now: int) -> None:
        self._full -= min(amount, self.used(now)) * self._interval

    def until(self, amount: int, now: int) -> int:
        """Microseconds until no more than `amount` is in use."""
        wait = self._full - amount * self._interval - now
        return max(-(-wait.numerator // wait.denominator), 0)


class FixedWindow:
    """Counts in each window since the epoch."""

    def __init__(self, window_us: int) -> None:
        self._window = window_us
        self._counts: Counter[int] = Counter()

    def used(self, now: int) -> int:
        return self._counts[now // self._window]

    def add(self, amount: int, now: int) -> None:
        self._counts[now // self._window] += amount

    def refund(self, amount: int, now: int) -> None:
        self._counts[now // self._window] -= min(amount, self.used(now))

    def until(self, amount: int, now: int) -> int:
        return 0 if self.used(now) <= amount else self._window - now % self._window


class Slots:
    """Counts in slots, of which the present one and the previous 16 matter."""

    def __init__(self, window_us: int) -> None:
        self._length = -(-window_us // _SLOTS)
        self._counts: Counter[int] = Counter()

    def _used_at(self, slot: int) -> int:
        return sum(self._counts[number] for number in range(slot - _SLOTS, slot + 1))

    def used(self, now: int) -> int:
        return self._used_at(now // self._length)

    def add(self, amount: int, now: int) -> None:
        self._counts[now // self._length] += amount

    def refund(self, amount: int, now: int) -> None:
        slot = now // self._length
        for number in range(slot - _SLOTS, slot + 1):
            taken = min(amount, self._counts[number])
            self._counts[number] -= taken
            amount -= taken

    def until(self, amount: int, now: int) -> int:
        slot = now // self._length
        if self._used_at(slot) <= amount:
            return 0
        while self._used_at(slot) > amount:
            slot += 1
        return slot * self._length - now


class Key:
    """One key under one policy."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._burst = Slots(_SECOND)
        self._window: TokenBucket | FixedWindow | Slots
        if rule.algorithm == "token_bucket":
            self._window = TokenBucket(rule.requests, rule.window_us)
        elif rule.algorithm == "fixed_window":
            self._window = FixedWindow(rule.window_us)
        else:
            self._window = Slots(rule.window_us)

    def change(self, rule: Rule, now: int) -> None:
        """Go on with other requests in the same window; what is in use is kept."""
        self._rule = rule
        if isinstance(self._window, TokenBucket):
            used = self._window.used(now)
            self._window = TokenBucket(rule.requests, rule.window_us)
            self._window.add(used, now)

    def charge(self, cost: int, times: int, now: int) -> Answer:
        granted = 0
        while granted < times and self._remaining(now) >= cost:
            self._window.add(cost, now)
            self._burst.add(cost, now)
            granted += 1
        return self._answer(granted, cost, now)

    def look(self, cost: int, now: int) -> Answer:
        return self._answer(0, cost, now)

    def refund(self, cost: int, now: int) -> Answer:
        self._window.refund(cost, now)
        return self._answer(0, 1, now)

    def _remaining(self, now: int) -> int:
        remaining = self._rule.requests - self._window.used(now)
        if self._rule.burst:
            remaining = min(remaining, self._rule.burst - self._burst.used(now))
        return max(remaining, 0)

    def _answer(self, granted: int, cost: int, now: int) -> Answer:
        rule = self._rule
        never = cost > rule.requests or 0 < rule.burst < cost
        return Answer(
            granted,
            self._remaining(now),
            None if never else self._until(rule.requests - cost, rule.burst - cost, now),
            self._until(0, 0, now),
        )

    def _until(self, in_window: int, in_burst: int, now: int) -> int:
        wait = self._window.until(in_window, now)
        return max(wait, self._burst.until(in_burst, now)) if self._rule.burst else wait
