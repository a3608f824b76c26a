"""A collector on this machine: OTLP over real gRPC, which refuses when a test tells it to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from authsvc.config import TelemetrySettings
from authsvc.telemetry import exporter

_PATIENCE = 60.0


def attributes(carrier: Any) -> dict[str, str | int]:
    """Return the attributes of a span, a resource or a data point."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value")
        for each in carrier.attributes
    }


@dataclass
class Collector(trace_grpc.TraceServiceServicer, metrics_grpc.MetricsServiceServicer):
    """What it received. `refusal` is how it answers instead, and `rejects` how many of a batch.

    While `silent`, it doesn't answer.
    """

    port: int = 0
    refusal: grpc.StatusCode | None = None
    rejects: int = 0
    silent: bool = False
    calls: int = 0
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    resource: dict[str, str | int] = field(default_factory=dict)
    headers: dict[str, str | bytes] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def settings(self, **more: Any) -> TelemetrySettings:
        """Return settings that lead here, in plaintext, and trace every call."""
        values = {"otlp_endpoint": f"http://127.0.0.1:{self.port}", "traces_sample_ratio": 1.0}
        return TelemetrySettings.model_validate({**values, **more})

    async def until(self, condition: Callable[["Collector"], object]) -> None:
        """Wait until it has received what fulfils the condition."""
        async with asyncio.timeout(_PATIENCE), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def span(self, name: str) -> Span:
        """Return the first span with this name, once it is here."""
        await self.until(lambda it: any(span.name == name for span in it.spans))
        return next(span for span in self.spans if span.name == name)

    def trace(self, span: Span) -> dict[str, Span]:
        """Return all spans of a span's trace by their names."""
        return {each.name: each for each in self.spans if each.trace_id == span.trace_id}

    async def Export(self, request: Any, context: Any) -> Any:  # of both services
        traces = isinstance(request, trace_pb.ExportTraceServiceRequest)
        async with self._changed:
            self.calls += 1
            self.headers = dict(context.invocation_metadata())
            if not self.silent and self.refusal is None:
                self._take(request, traces=traces)
            self._changed.notify_all()
        if self.silent:
            await asyncio.Event().wait()
        if self.refusal is not None:
            await context.abort(self.refusal, "not now")
        if traces:
            partial = trace_pb.ExportTracePartialSuccess(rejected_spans=self.rejects)
            return trace_pb.ExportTraceServiceResponse(partial_success=partial)
        return metrics_pb.ExportMetricsServiceResponse()

    def _take(self, request: Any, *, traces: bool) -> None:
        for resource in request.resource_spans if traces else request.resource_metrics:
            self.resource = attributes(resource.resource)
            for scope in resource.scope_spans if traces else resource.scope_metrics:
                if traces:
                    self.spans += scope.spans
                else:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}


@asynccontextmanager
async def collecting(
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[Collector]:
    """Serve a collector."""
    collector = Collector()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    untyped: Any = (
        trace_grpc.add_TraceServiceServicer_to_server,
        metrics_grpc.add_MetricsServiceServicer_to_server,
    )
    for add in untyped:
        add(collector, server)
    address = "127.0.0.1:0"
    if credentials is None:
        collector.port = server.add_insecure_port(address)
    else:
        collector.port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


@pytest_asyncio.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector in plaintext; what is sent to it isn't gathered for long."""
    monkeypatch.setattr(exporter, "_GATHER_SECONDS", 0.01)
    async with collecting() as collector:
        yield collector
