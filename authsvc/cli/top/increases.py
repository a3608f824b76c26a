"""Owns what has happened between two scrapes: increases of counters, and quantiles."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from authsvc.cli.scraping import Labels, Scrape

# Seconds: the shortest time that is divided by.
_SHORTEST = 1e-3
_UPTIME = "authsvc_uptime_seconds"

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class Interval:
    """Two scrapes of one replica, one after the other."""

    before: Scrape
    after: Scrape

    @property
    def is_restarted(self) -> bool:
        """Whether the replica began anew in between, and its counters with it."""
        before, after = self.before.value(_UPTIME), self.after.value(_UPTIME)
        return before is not None and after is not None and after < before

    @property
    def seconds(self) -> float:
        """The time in which the counters increased, by the replica's own clock.

        A replica gives the same answer for a second, so the time between two scrapes is another.
        """
        before, after = self.before.value(_UPTIME), self.after.value(_UPTIME)
        if before is None or after is None or before == after:
            return max(self.after.time - self.before.time, _SHORTEST)
        return max(after if self.is_restarted else after - before, _SHORTEST)

    def increases(self, name: str) -> Sequence[tuple[Labels, float]]:
        """Return by how much each sample of a counter has increased.

        One that was not there before began at 0, as do all when the replica is restarted.
        """
        before = {}
        if not self.is_restarted:
            before = {_key(labels): value for labels, value in self.before.of(name)}
        return [
            (labels, max(0.0, value - before.get(_key(labels), 0.0)))
            for labels, value in self.after.of(name)
        ]


def _key(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def rates(
    intervals: Iterable[Interval], name: str, key: Callable[[Labels], Group]
) -> Mapping[Group, float]:
    """Return increases a second of all replicas together, summed by what `key` makes of labels."""
    found: dict[Group, float] = {}
    for interval in intervals:
        for labels, increase in interval.increases(name):
            group = key(labels)
            found[group] = found.get(group, 0.0) + increase / interval.seconds
    return found


def quantiles(
    intervals: Iterable[Interval], name: str, key: Callable[[Labels], Group], *shares: float
) -> Mapping[Group, Sequence[float | None]]:
    """Return these quantiles of a histogram over all replicas; None where nothing was observed.

    `name` is that of the histogram, and `key` groups its samples, as for `rates`.
    """
    buckets: dict[Group, dict[float, float]] = {}
    for interval in intervals:
        for labels, increase in interval.increases(f"{name}_bucket"):
            counts = buckets.setdefault(key(labels), {})
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + increase
    return {
        group: [quantile(share, counts) for share in shares] for group, counts in buckets.items()
    }


def quantile(share: float, counts: Mapping[float, float]) -> float | None:
    """Return a quantile by the counts of a histogram's buckets, as Prometheus does.

    `counts` are cumulative, by the upper bounds. Within a bucket, observations are taken to be
    spread evenly; beyond the last bound, that bound is returned.
    """
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    rank = share * counts[bounds[-1]]
    lower = below = 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            if math.isinf(bound):
                return lower
            within = counts[bound] - below
            return bound if within <= 0 else lower + (bound - lower) * (rank - below) / within
        lower, below = bound, counts[bound]
    return lower
