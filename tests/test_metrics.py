"""The metrics: what they count, and how it reads in Prometheus."""

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from authsvc.metrics import BUCKETS, Metrics

LOGIN = "/authsvc.v1.AuthService/Login"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a sample of what a scrape would read."""
    samples = [
        sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    ]
    assert len(samples) <= 1
    return samples[0] if samples else None


def test_calls_are_counted_by_outcome() -> None:
    metrics = Metrics()
    meter = metrics.calls.method(LOGIN)
    for _ in range(3):
        meter.record(("OK", ""), 0.001)
    meter.record(("UNAUTHENTICATED", "CREDENTIALS_INVALID"), 0.03)
    assert value(metrics, "authsvc_rpc_calls_total", method=LOGIN, code="OK", reason="") == 3
    failed = {"code": "UNAUTHENTICATED", "reason": "CREDENTIALS_INVALID"}
    assert value(metrics, "authsvc_rpc_calls_total", method=LOGIN, **failed) == 1


def test_durations_are_cumulative() -> None:
    metrics = Metrics()
    meter = metrics.calls.method(LOGIN)
    for seconds in (0.0001, 0.001, 0.0011, 7.0, 60.0):
        meter.record(("OK", ""), seconds)
    name = "authsvc_rpc_duration_seconds"
    buckets = [
        value(metrics, f"{name}_bucket", method=LOGIN, le=bound)
        for bound in (*map(str, BUCKETS), "+Inf")
    ]
    assert buckets == [1, 2, 3, *[3] * 10, 4, 5]
    assert value(metrics, f"{name}_count", method=LOGIN) == 5
    assert value(metrics, f"{name}_sum", method=LOGIN) == pytest.approx(67.0022)


def test_buckets_have_their_latest_traced_call_as_exemplar_in_openmetrics_alone() -> None:
    metrics = Metrics()
    meter = metrics.calls.method(LOGIN)
    for seconds, trace in ((0.0011, "a"), (0.0012, "b"), (60.0, "c")):
        meter.record(("OK", ""), seconds)
        meter.exemplify(seconds, {"trace_id": trace * 32, "span_id": trace * 16})
    exemplars: dict[str, Exemplar] = {
        sample.labels["le"]: sample.exemplar
        for family in parse_openmetrics(  # type: ignore[no-untyped-call] # its hints are missing
            metrics.render(openmetrics=True).decode()
        )
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars["0.0025"].labels == {"trace_id": "b" * 32, "span_id": "b" * 16}
    assert {bound: each.value for bound, each in exemplars.items()} == {
        "0.0025": 0.0012,
        "+Inf": 60.0,
    }
    assert b"trace_id" not in metrics.render()


def test_each_method_has_one_meter() -> None:
    metrics = Metrics()
    assert metrics.calls.method(LOGIN) is metrics.calls.method(LOGIN)
    assert metrics.calls.method(LOGIN) is not metrics.calls.method("/a/b")


def test_process_metrics_are_exported() -> None:
    metrics = Metrics()
    assert value(metrics, "process_resident_memory_bytes")
