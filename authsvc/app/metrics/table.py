"""Owns what a row of the metrics' table says, and the reading of a table at each scrape.

Both the metrics and the page about them, docs/metrics.md, come from these rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from authsvc.errors import ServiceError
from authsvc.measures import Histogram, Labels

log = structlog.get_logger(__name__)

Source = TypeVar("Source")
# One value, none at the moment, one for each combination of labels, or a histogram.
Reading: TypeAlias = float | Mapping[Labels, float] | Histogram | None
_Family: TypeAlias = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Fleet(StrEnum):
    """How the values of all replicas become one."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Generic[Source]):
    """A metric: its name in queries, what it means, when to worry, and how it is read.

    `read` is called in a thread of its own, and neither waits nor queries the database. It returns
    None while there is no value, or raises ServiceError. Without `read`, `CallMetrics` collects it.
    """

    name: str
    kind: Kind
    labels: Labels = ()
    fleet: Fleet
    meaning: str
    worry: str = ""
    read: Callable[[Source], Reading] | None = None

    @property
    def unit(self) -> str:
        """The unit of its values, which its name ends with, or "" if they are only numbers."""
        if self.name.endswith("_time_seconds"):
            return "Unix time"
        return "seconds" if self.name.endswith("_seconds") else ""

    def family(self) -> _Family:
        """Return what is sent for it, without a value."""
        match self.kind:
            case Kind.GAUGE:
                return GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
            case Kind.COUNTER:
                return CounterMetricFamily(self.name, self.meaning, labels=self.labels)
        return HistogramMetricFamily(self.name, self.meaning, labels=self.labels)


class MetricTable(Collector, Generic[Source]):
    """Reads the metrics of a table from one source."""

    def __init__(self, metrics: Iterable[Metric[Source]], source: Source) -> None:
        self._metrics = metrics
        self._source = source
        self._not_read: set[str] = set()

    def describe(self) -> Iterator[_Family]:
        """Yield the names, so that the registry refuses one that is there twice."""
        for metric in self._metrics:
            if metric.read is not None:
                yield metric.family()

    def collect(self) -> Iterator[_Family]:
        """Yield the metrics that have a value; one that can't be read does not cost the others."""
        for metric in self._metrics:
            try:
                reading = metric.read(self._source) if metric.read is not None else None
            except ServiceError:
                continue
            except Exception:
                if metric.name not in self._not_read:
                    self._not_read.add(metric.name)
                    log.exception("metric_not_read", metric=metric.name)
                continue
            if reading is not None:
                yield _filled(metric.family(), reading)


def _filled(family: _Family, reading: float | Mapping[Labels, float] | Histogram) -> _Family:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(reading, Histogram)  # noqa: S101 - the table says so
        buckets, seconds = reading.read()
        family.add_metric((), buckets, seconds)
        return family
    assert not isinstance(reading, Histogram)  # noqa: S101 - the table says so
    readings = reading if isinstance(reading, Mapping) else {(): reading}
    for labels, value in readings.items():
        family.add_metric(labels, value)
    return family
