"""Owns the messages of OTLP: spans and metrics as a collector takes them, in bytes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import time_ns

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample

from authsvc import __version__
from authsvc.conventions import METRICS, RPC_METHOD, VALUES, MetricName
from authsvc.tracing import Attributes, Span, SpanKind

_SCOPE = InstrumentationScope(name="authsvc", version=__version__)
_CUMULATIVE = otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
_NANOSECONDS = 1e9


def resource_of(attributes: Mapping[str, str]) -> Resource:
    """Return the resource that everything from this process belongs to."""
    return Resource(attributes=_attributes(attributes))


def encode_spans(spans: Iterable[Span], resource: Resource) -> bytes:
    """Return the request that sends these spans."""
    scope = trace_pb2.ScopeSpans(scope=_SCOPE, spans=map(_span, spans))
    return ExportTraceServiceRequest(
        resource_spans=[trace_pb2.ResourceSpans(resource=resource, scope_spans=[scope])]
    ).SerializeToString()


def encode_metrics(families: Iterable[Metric], resource: Resource, start: int) -> bytes:
    """Return the request that sends these metrics, which count since `start` in nanoseconds."""
    now = time_ns()
    metrics = [_metric(family, start, now) for family in families]
    scope = otlp.ScopeMetrics(scope=_SCOPE, metrics=metrics)
    return ExportMetricsServiceRequest(
        resource_metrics=[otlp.ResourceMetrics(resource=resource, scope_metrics=[scope])]
    ).SerializeToString()


def _attributes(attributes: Attributes) -> list[KeyValue]:
    return [
        KeyValue(
            key=key,
            value=AnyValue(int_value=value)
            if isinstance(value, int)
            else AnyValue(string_value=value),
        )
        for key, value in attributes.items()
    ]


def _span(span: Span) -> trace_pb2.Span:
    # Only the first span of a call can have a parent elsewhere.
    remote = bool(span.parent_id) and span.kind is SpanKind.SERVER
    flags = trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    status = trace_pb2.Status.STATUS_CODE_ERROR if span.failed else None
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.id),
        parent_span_id=bytes.fromhex(span.parent_id),
        trace_state=span.trace_state,
        flags=1 | flags | (trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK if remote else 0),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=_attributes(span.attributes),
        status=trace_pb2.Status(code=status) if status else None,
    )


def _metric(family: Metric, start: int, now: int) -> otlp.Metric:
    known = METRICS.get(family.name, MetricName(family.name, "", {}))
    made = otlp.Metric(name=known.name, unit=known.unit, description=family.documentation)
    if family.type == "histogram":
        points = list(_histograms(family.samples, known.labels, start, now))
        histogram = otlp.Histogram(data_points=points, aggregation_temporality=_CUMULATIVE)
        made.histogram.CopyFrom(histogram)
        return made
    numbers = [
        otlp.NumberDataPoint(
            attributes=_labels(sample.labels, known.labels),
            start_time_unix_nano=start if family.type == "counter" else 0,
            time_unix_nano=now,
            as_double=sample.value,
        )
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    if family.type == "counter":
        total = otlp.Sum(
            data_points=numbers, aggregation_temporality=_CUMULATIVE, is_monotonic=True
        )
        made.sum.CopyFrom(total)
    else:
        made.gauge.CopyFrom(otlp.Gauge(data_points=numbers))
    return made


def _labels(labels: Mapping[str, str], names: Mapping[str, str]) -> list[KeyValue]:
    named = {
        names.get(name, name): VALUES.get(value, value) if name in names else value
        for name, value in labels.items()
    }
    if RPC_METHOD in named:
        # The conventions have no slash in front.
        named[RPC_METHOD] = named[RPC_METHOD].removeprefix("/")
    return _attributes(named)


def _histograms(
    samples: Sequence[Sample], names: Mapping[str, str], start: int, now: int
) -> Iterator[otlp.HistogramDataPoint]:
    """Yield a point for the samples of each set of labels."""
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        groups.setdefault(tuple(labels.items()), []).append(sample)
    for key, group in groups.items():
        buckets = [sample for sample in group if sample.name.endswith("_bucket")]
        counts = [int(sample.value) for sample in buckets]
        yield otlp.HistogramDataPoint(
            attributes=_labels(dict(key), names),
            start_time_unix_nano=start,
            time_unix_nano=now,
            count=counts[-1],
            sum=sum(sample.value for sample in group if sample.name.endswith("_sum")),
            bucket_counts=[
                count - before for before, count in zip((0, *counts), counts, strict=False)
            ],
            explicit_bounds=[float(sample.labels["le"]) for sample in buckets[:-1]],
            exemplars=[_exemplar(sample.exemplar) for sample in buckets if sample.exemplar],
        )


def _exemplar(exemplar: Exemplar) -> otlp.Exemplar:
    return otlp.Exemplar(
        time_unix_nano=int(float(exemplar.timestamp or 0) * _NANOSECONDS),
        as_double=exemplar.value,
        trace_id=bytes.fromhex(exemplar.labels["trace_id"]),
        span_id=bytes.fromhex(exemplar.labels["span_id"]),
    )
