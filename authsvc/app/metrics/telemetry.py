"""Owns the metrics of what is sent to an OpenTelemetry collector."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from authsvc.app.metrics.table import Fleet, Kind, Metric

if TYPE_CHECKING:
    from authsvc.telemetry.exporter import Telemetry

# Without `telemetry.otlp_endpoint`, there are none of them.
TELEMETRY: Sequence[Metric["Telemetry"]] = (
    Metric(
        name="authsvc_telemetry_spans_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        fleet=Fleet.SUM,
        meaning="Spans that were `sent` to the collector, or `dropped`.",
        worry="`dropped` rises: traces are missing or have holes.",
        read=lambda telemetry: telemetry.spans.read(),
    ),
    Metric(
        name="authsvc_telemetry_spans_waiting",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Spans that wait to be sent.",
        worry="It nears 2,048: further ones are dropped.",
        read=lambda telemetry: telemetry.waiting,
    ),
    Metric(
        name="authsvc_telemetry_failures_total",
        kind=Kind.COUNTER,
        labels=("signal",),
        fleet=Fleet.SUM,
        meaning="Requests to the collector that failed, or were rejected in part.",
        worry="It rises: the log's `telemetry_not_sent` says why.",
        read=lambda telemetry: telemetry.failures.read(),
    ),
    Metric(
        name="authsvc_telemetry_traces_limited_total",
        kind=Kind.COUNTER,
        fleet=Fleet.SUM,
        meaning="Calls that were not traced because of `telemetry.max_traces_per_second`.",
        worry="It rises steadily: a caller asks for more traces than there is room for.",
        read=lambda telemetry: telemetry.tracer.limited,
    ),
)
