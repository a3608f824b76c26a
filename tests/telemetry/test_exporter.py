"""What is sent to a collector, and what becomes of it while there is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from io import StringIO
from pathlib import Path
from socket import socket
from time import perf_counter
from typing import Any

import grpc
import pytest
import pytest_asyncio

from authsvc import __version__
from authsvc.app.metrics.table import MetricTable
from authsvc.app.metrics.telemetry import TELEMETRY
from authsvc.config import ConfigError, TelemetrySettings
from authsvc.metrics import Metrics
from authsvc.telemetry import exporter
from authsvc.telemetry.exporter import MAX_WAITING, Telemetry
from authsvc.tracing import SPAN, SpanKind
from tests.support.certificates import Authority
from tests.support.otlp import Collector, collecting
from tests.support.ports import port_of

NAME = "a.B/C"


class Sending:
    """A process that sends."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self.metrics = Metrics()
        self.telemetry = Telemetry(settings, self.metrics)
        self.metrics.registry.register(MetricTable(TELEMETRY, self.telemetry))

    def call(self, count: int = 1) -> None:
        """Trace calls."""
        for _ in range(count):
            span = self.telemetry.tracer.begin(NAME, SpanKind.SERVER, began=perf_counter())
            assert span is not None
            span.finish_trace()
            SPAN.set(None)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"authsvc_telemetry_{name}", labels)
        assert found is not None
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Sending]]:
    """Starts to send; ends after the test."""
    monkeypatch.setattr(exporter, "_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(exporter, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(exporter, "_LONGEST_PAUSE", 0.05)
    async with AsyncExitStack() as stack:

        def start(settings: TelemetrySettings) -> Sending:
            limited = settings.model_copy(update={"max_traces_per_second": 1_000_000})
            sending = Sending(limited)
            sending.telemetry.start()
            stack.push_async_callback(sending.telemetry.close, 0.01)
            return sending

        yield start


def logged(lines: StringIO) -> list[dict[str, Any]]:
    events = map(json.loads, lines.getvalue().splitlines())
    return [event for event in events if event["logger"] == "authsvc.telemetry"]


def credentials(authority: Authority) -> grpc.ServerCredentials:
    certificate = authority.server()
    return grpc.ssl_server_credentials(
        [(certificate.key, certificate.certificate)],
        authority.certificate,
        require_client_auth=True,
    )


def write(folder: Path, authority: Authority) -> dict[str, str]:
    """Write the files of a client of the collector; return the settings that name them."""
    client = authority.caller("spiffe://authsvc.test/self")
    contents = {
        "ca_file": authority.certificate,
        "certificate_file": client.certificate,
        "key_file": client.key,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in contents}


async def test_spans_are_sent_over_mutual_tls(
    start: Callable[..., Sending], authority: Authority, tmp_path: Path
) -> None:
    async with collecting(credentials(authority)) as collector:
        settings = collector.settings(
            otlp_endpoint=f"https://localhost:{collector.port}",
            authorization="Bearer s3cret",
            resource_attributes={"deployment.environment.name": "test"},
            **write(tmp_path, authority),
        )
        sending = start(settings)
        sending.call()
        span = await collector.span(NAME)
        await sending.until(lambda: sending.value("spans_total", outcome="sent") == 1)
    assert (len(span.trace_id), len(span.span_id)) == (16, 8)
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    assert collector.headers["authorization"] == "Bearer s3cret"
    assert collector.resource["service.name"] == "authsvc"
    assert collector.resource["service.version"] == __version__
    assert collector.resource["service.instance.id"]
    assert collector.resource["deployment.environment.name"] == "test"
    assert "s3cret" not in repr(settings)


async def test_renewed_certificates_are_read_when_the_collector_is_not_reached(
    start: Callable[..., Sending], authority: Authority, tmp_path: Path, lines: StringIO
) -> None:
    async with collecting(credentials(authority)) as collector:
        stranger = Authority()
        sending = start(
            collector.settings(
                otlp_endpoint=f"https://localhost:{collector.port}", **write(tmp_path, stranger)
            )
        )
        sending.call()
        await sending.until(lambda: sending.value("failures_total", signal="traces") > 1)
        assert not collector.spans
        write(tmp_path, authority)
        await collector.span(NAME)
    assert [event["event"] for event in logged(lines)][:1] == ["telemetry_not_sent"]


async def test_outage_costs_bounded_memory_and_two_log_lines(
    start: Callable[..., Sending], collector: Collector, lines: StringIO
) -> None:
    collector.refusal = grpc.StatusCode.UNAVAILABLE
    sending = start(collector.settings(metrics=False))
    sending.call(MAX_WAITING + 100)
    assert sending.value("spans_waiting") == MAX_WAITING
    assert sending.value("spans_total", outcome="dropped") == 100
    await sending.until(lambda: sending.value("failures_total", signal="traces") > 5)
    assert sending.value("spans_waiting") == MAX_WAITING
    collector.refusal = None
    await sending.until(lambda: sending.value("spans_waiting") == 0)
    sending.call()
    await collector.until(lambda it: len(it.spans) == MAX_WAITING + 1)
    assert len({span.span_id for span in collector.spans}) == MAX_WAITING + 1
    first, second = logged(lines)
    assert (first["event"], first["level"]) == ("telemetry_not_sent", "warning")
    assert first["problem"].startswith("UNAVAILABLE")
    assert second["event"] == "telemetry_sent_again"


async def test_absent_collector_is_an_outage(
    start: Callable[..., Sending], unheard: socket, lines: StringIO
) -> None:
    sending = start(Collector(port=port_of(unheard)).settings(metrics=False))
    sending.call()
    await sending.until(lambda: sending.value("failures_total", signal="traces") > 2)
    assert sending.value("spans_waiting") == 1
    assert [event["event"] for event in logged(lines)] == ["telemetry_not_sent"]


async def test_what_the_collector_refuses_is_not_sent_again(
    start: Callable[..., Sending], collector: Collector, lines: StringIO
) -> None:
    collector.refusal = grpc.StatusCode.INVALID_ARGUMENT
    sending = start(collector.settings(metrics=False))
    sending.call(3)
    await sending.until(lambda: sending.value("spans_total", outcome="dropped") == 3)
    assert collector.calls == 1
    assert [event["problem"] for event in logged(lines)] == ["INVALID_ARGUMENT: not now"]


async def test_what_the_collector_rejects_is_counted(
    start: Callable[..., Sending], collector: Collector
) -> None:
    collector.rejects = 2
    sending = start(collector.settings(metrics=False))
    sending.call(3)
    await sending.until(lambda: sending.value("spans_total", outcome="sent") == 1)
    assert sending.value("spans_total", outcome="dropped") == 2


async def test_number_that_can_not_be_is_not_counted(
    start: Callable[..., Sending], collector: Collector
) -> None:
    collector.rejects = -7
    sending = start(collector.settings(metrics=False))
    sending.call(3)
    await sending.until(lambda: sending.value("spans_total", outcome="sent") == 3)
    assert sending.value("spans_total", outcome="dropped") == 0
    collector.rejects = 2**62
    sending.call()
    await sending.until(lambda: sending.value("spans_total", outcome="dropped") == 1)
    assert sending.value("spans_total", outcome="sent") == 3


async def test_answer_that_can_not_be_parsed_does_not_end_the_sending(
    start: Callable[..., Sending], lines: StringIO
) -> None:
    answers = [b"\xff", b""]

    async def answer(_request: bytes, _context: Any) -> bytes:
        return answers.pop(0)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        sending = start(Collector(port=port).settings(metrics=False))
        sending.call()
        await sending.until(lambda: sending.value("spans_total", outcome="dropped") == 1)
        sending.call()
        await sending.until(lambda: sending.value("spans_total", outcome="sent") == 1)
    finally:
        await server.stop(None)
    events = [event["event"] for event in logged(lines)]
    assert events == ["telemetry_not_sent", "telemetry_sent_again"]


async def test_end_sends_what_is_left(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_GATHER_SECONDS", 3_600)
    sending = Sending(collector.settings(max_traces_per_second=10_000))
    sending.telemetry.start()
    await asyncio.sleep(0)
    sending.call(40)
    await sending.telemetry.close(60)
    assert len(collector.spans) == 40
    assert "rpc.server.call.duration" in collector.metrics


async def test_end_does_not_wait_for_a_silent_collector(
    collector: Collector, lines: StringIO
) -> None:
    collector.silent = True
    sending = Sending(collector.settings(metrics=False))
    sending.telemetry.start()
    sending.call(2)
    await collector.until(lambda it: it.calls)
    async with asyncio.timeout(5):
        await sending.telemetry.close(0.01)
    assert [event["event"] for event in logged(lines)] == ["telemetry_lost"]


async def test_end_tries_an_absent_collector_once(
    unheard: socket, monkeypatch: pytest.MonkeyPatch, lines: StringIO
) -> None:
    monkeypatch.setattr(exporter, "_GATHER_SECONDS", 3_600)
    sending = Sending(Collector(port=port_of(unheard)).settings(metrics=False))
    sending.telemetry.start()
    await asyncio.sleep(0)
    sending.call(2)
    async with asyncio.timeout(60):
        await sending.telemetry.close(3_600)
    assert sending.value("failures_total", signal="traces") == 1
    assert [event["event"] for event in logged(lines)] == ["telemetry_not_sent", "telemetry_lost"]


async def test_metrics_are_sent_at_intervals(
    start: Callable[..., Sending], collector: Collector
) -> None:
    often = {"metrics_interval": timedelta(milliseconds=10)}
    start(collector.settings().model_copy(update=often))
    await collector.until(lambda it: it.calls > 2)
    assert "process.cpu.time" in collector.metrics


async def test_missing_file_is_named(tmp_path: Path) -> None:
    settings = Collector(port=1).settings(
        otlp_endpoint="https://localhost:1", ca_file=str(tmp_path / "gone")
    )
    with pytest.raises(ConfigError, match=r"telemetry: .*gone can't be read: No such file"):
        Telemetry(settings, Metrics())
