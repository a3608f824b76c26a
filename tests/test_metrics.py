"""The metrics: what they count, and how it reads in Prometheus."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

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
        meter.record("OK", "", 0.001)
    meter.record("UNAUTHENTICATED", "CREDENTIALS_INVALID", 0.03)
    assert value(metrics, "authsvc_rpc_calls_total", method=LOGIN, code="OK", reason="") == 3
    failed = {"code": "UNAUTHENTICATED", "reason": "CREDENTIALS_INVALID"}
    assert value(metrics, "authsvc_rpc_calls_total", method=LOGIN, **failed) == 1


def test_durations_are_cumulative() -> None:
    metrics = Metrics()
    meter = metrics.calls.method(LOGIN)
    for seconds in (0.0001, 0.001, 0.0011, 7.0, 60.0):
        meter.record("OK", "", seconds)
    name = "authsvc_rpc_duration_seconds"
    buckets = [
        value(metrics, f"{name}_bucket", method=LOGIN, le=bound)
        for bound in (*map(str, BUCKETS), "+Inf")
    ]
    assert buckets == [1, 2, 3, *[3] * 10, 4, 5]
    assert value(metrics, f"{name}_count", method=LOGIN) == 5
    assert value(metrics, f"{name}_sum", method=LOGIN) == pytest.approx(67.0022)


def test_each_method_has_one_meter() -> None:
    metrics = Metrics()
    assert metrics.calls.method(LOGIN) is metrics.calls.method(LOGIN)
    assert metrics.calls.method(LOGIN) is not metrics.calls.method("/a/b")


def test_process_metrics_are_exported() -> None:
    metrics = Metrics()
    assert value(metrics, "process_resident_memory_bytes")
