"""The messages of OTLP, and their names beside those of the conventions."""

from types import ModuleType

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.semconv._incubating.attributes import (
    cpython_attributes,
    db_attributes,
    http_attributes,
    rpc_attributes,
    server_attributes,
)
from opentelemetry.semconv._incubating.metrics import (
    cpython_metrics,
    db_metrics,
    process_metrics,
    rpc_metrics,
)
from opentelemetry.semconv.attributes import error_attributes
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from authsvc.conventions import METRICS, SPANS
from authsvc.telemetry.encoding import encode_metrics, resource_of
from tests.support.otlp import attributes


def constants(*modules: ModuleType) -> set[str]:
    """Return the names that the conventions have now; deprecated ones say so in their comment."""
    return {
        value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }


_ATTRIBUTES = constants(
    *(cpython_attributes, db_attributes, http_attributes, rpc_attributes, server_attributes),
    error_attributes,
)
_METRICS = constants(cpython_metrics, db_metrics, process_metrics, rpc_metrics)


def test_names_are_those_of_the_conventions() -> None:
    named = {attribute for span in SPANS for attribute in span.attributes}
    named |= {attribute for metric in METRICS.values() for attribute in metric.labels.values()}
    assert {name for name in named if not name.startswith("authsvc.")} <= _ATTRIBUTES
    assert {metric.name for metric in METRICS.values()} <= _METRICS


def encoded(registry: CollectorRegistry) -> dict[str, Metric]:
    body = encode_metrics(registry.collect(), resource_of({"service.name": "x"}), 5)
    request = ExportMetricsServiceRequest.FromString(body)
    [resource] = request.resource_metrics
    assert attributes(resource.resource) == {"service.name": "x"}
    [scope] = resource.scope_metrics
    return {metric.name: metric for metric in scope.metrics}


def test_each_kind_of_metric_is_encoded() -> None:
    registry = CollectorRegistry()
    Counter("made", "Made things.", ("kind",), registry=registry).labels("a").inc(3)
    Gauge("held", "Held things.", registry=registry).set(-1.5)
    Info("build", "The build.", registry=registry).info({"version": "1"})
    histogram = Histogram("wait_seconds", "Waiting.", buckets=(1, 2), registry=registry)
    for value in (0.5, 0.75, 1.5, 9.0):
        histogram.observe(value)
    metrics = encoded(registry)
    assert set(metrics) == {"made", "held", "build", "wait_seconds"}

    made = metrics["made"].sum
    assert made.is_monotonic
    [number] = made.data_points
    assert (number.as_double, number.start_time_unix_nano) == (3, 5)
    assert attributes(number) == {"kind": "a"}

    [number] = metrics["held"].gauge.data_points
    assert number.as_double == -1.5
    assert attributes(metrics["build"].gauge.data_points[0]) == {"version": "1"}

    [waited] = metrics["wait_seconds"].histogram.data_points
    assert [*waited.explicit_bounds] == [1, 2]
    assert [*waited.bucket_counts] == [2, 1, 1]
    assert waited.count == 4
    assert waited.sum == pytest.approx(11.75)


def test_metric_without_values_is_encoded() -> None:
    registry = CollectorRegistry()
    Counter("made", "Made things.", ("kind",), registry=registry)
    assert not encoded(registry)["made"].sum.data_points
