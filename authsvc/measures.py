"""Owns what the service counts and measures: plain numbers, which a scrape of the metrics reads.

A plain count costs a tenth of prometheus-client's, which matters on every call. One thread counts,
or several under a lock of theirs; metrics are rendered in another, from copies.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

Labels: TypeAlias = tuple[str, ...]

# Upper bounds in seconds, for waits that are good below a millisecond and bad above a second.
WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Counts:
    """Counts by the values of labels; `known` ones are reported as 0 before they first occur.

    Otherwise the first of its kind would be no increase. Whoever adds sees to it that there are few
    values, and that none is an id, an address or a key.
    """

    __slots__ = ("_counts",)

    def __init__(self, *known: Labels) -> None:
        self._counts = dict.fromkeys(known, 0)

    def add(self, *labels: str, count: int = 1) -> None:
        """Count once more, or `count` times."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def read(self) -> Mapping[Labels, int]:
        """Return a copy."""
        return self._counts.copy()


class Histogram:
    """Counts durations in seconds by the first of `bounds` that each is not above."""

    __slots__ = ("_buckets", "_seconds", "bounds")

    def __init__(self, bounds: Sequence[float] = WAITS) -> None:
        self.bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one is none."""
        if seconds > 0:
            self._buckets[bisect_left(self.bounds, seconds)] += 1
            self._seconds += seconds
        else:
            self._buckets[0] += 1

    def read(self) -> tuple[Sequence[tuple[str, float]], float]:
        """Return how many were up to each bound, as Prometheus counts them, and their sum."""
        bounds = (*map(str, self.bounds), "+Inf")
        return tuple(zip(bounds, accumulate(self._buckets.copy()), strict=True)), self._seconds
