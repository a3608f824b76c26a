"""Owns the registry of metrics, and the counts of calls; `app/metrics` has the table of the others.

Labels are only method names, gRPC codes and reasons, never ids, addresses or keys.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from time import time
from typing import TypeAlias

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from authsvc.measures import Histogram

# The gRPC code that a call ended with, and the reason, or "".
Outcome: TypeAlias = tuple[str, str]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MethodMeter:
    """Counts the calls of one RPC by their outcomes, and their durations.

    Only the event loop's thread counts, so it needs no lock; metrics are rendered in another, from
    copies.
    """

    __slots__ = ("_durations", "_exemplars", "_outcomes", "method")

    def __init__(self, method: str) -> None:
        self.method = method
        self._outcomes: defaultdict[Outcome, int] = defaultdict(int)
        self._durations = Histogram(BUCKETS)
        self._exemplars: dict[int, Exemplar] = {}

    def record(self, outcome: Outcome, seconds: float) -> None:
        """Count one call that ended with `outcome` after `seconds`."""
        self._outcomes[outcome] += 1
        self._durations.record(seconds)

    def exemplify(self, seconds: float, labels: dict[str, str]) -> None:
        """Keep a traced call of `seconds` as the exemplar of its bucket; `labels` name its span."""
        self._exemplars[bisect_left(BUCKETS, seconds)] = Exemplar(labels, seconds, time())

    def add_to(self, calls: CounterMetricFamily, durations: HistogramMetricFamily) -> None:
        """Add the counts to the two metric families."""
        for outcome, count in self._outcomes.copy().items():
            calls.add_metric((self.method, *outcome), count)
        buckets, seconds = self._durations.read()
        exemplars = self._exemplars.copy()
        durations.add_metric(
            (self.method,),
            [
                (*bucket, exemplars[at]) if at in exemplars else bucket
                for at, bucket in enumerate(buckets)
            ],
            seconds,
        )


class CallMetrics(Collector):
    """Counts calls by method, code and reason, and measures their duration.

    A plain count costs a tenth of prometheus-client's, which matters for every call.
    """

    def __init__(self) -> None:
        self._meters: dict[str, MethodMeter] = {}

    def method(self, method: str) -> MethodMeter:
        """Return the meter of an RPC by its full name; callers should keep it."""
        return self._meters.setdefault(method, MethodMeter(method))

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Yield the two metric families for a scrape."""
        calls = CounterMetricFamily(
            "authsvc_rpc_calls", "Finished calls.", labels=("method", "code", "reason")
        )
        durations = HistogramMetricFamily(
            "authsvc_rpc_duration_seconds", "Duration of calls.", labels=("method",)
        )
        for meter in list(self._meters.values()):
            meter.add_to(calls, durations)
        yield calls
        yield durations


class Metrics:
    """All metrics of a process: those of calls, of Python, and whatever is registered."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics()
        self.registry.register(self.calls)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self, *, openmetrics: bool = False) -> bytes:
        """Return all metrics in the Prometheus text format, or in OpenMetrics with exemplars."""
        return (generate_openmetrics if openmetrics else generate_latest)(self.registry)
