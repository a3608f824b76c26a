"""The traces and metrics of the running service, as a collector receives them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp
import grpc
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from authsvc.config import Settings
from authsvc.conventions import DELIVERY, HASH, MAIL, RPC_METHOD, SPANS
from authsvc.telemetry import exporter
from authsvc.v1.auth_service_pb2 import LoginRequest, RegisterRequest, RequestLoginCodeRequest
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.mail_server import mail_server, settings_for
from tests.support.otlp import Collector, attributes
from tests.support.probe import outcome, with_changes
from tests.support.service import Service, StartService

LOGIN = "authsvc.v1.AuthService/Login"
IP, USER_AGENT, DEVICE = "198.51.100.23", "Mozilla/9.7", "device-4711"


@pytest.fixture
def traced_settings(live_settings: Settings, collector: Collector) -> Settings:
    return live_settings.model_copy(update={"telemetry": collector.settings()})


def test_nothing_is_imported_without_an_endpoint() -> None:
    code = (
        "import sys, authsvc.app.application, authsvc.cli.serve;"
        "print([name for name in sys.modules"
        " if name.startswith(('opentelemetry', 'authsvc.telemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def nanoseconds(span: Span) -> tuple[int, int]:
    return span.start_time_unix_nano, span.end_time_unix_nano


async def test_login_is_a_trace_of_its_statements_and_its_hash(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    service = await start_service(traced_settings)
    await service.new_session(ip=IP)
    login = await collector.span(LOGIN)
    parts = collector.trace(login)
    assert login.kind == Span.SPAN_KIND_SERVER
    for name in (HASH, "UPDATE users UPDATE decoys", "COMMIT"):
        assert parts[name].parent_span_id == login.span_id
        assert nanoseconds(login)[0] <= nanoseconds(parts[name])[0]
        assert nanoseconds(parts[name])[1] <= nanoseconds(login)[1]
    assert attributes(parts["COMMIT"])["db.system.name"] == "postgresql"


async def test_no_span_tells_of_users_or_callers(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    service = await start_service(traced_settings)
    client = {"ip": IP, "user_agent": USER_AGENT, "device_id": DEVICE}
    tokens = await service.new_session(**client)
    wrong = LoginRequest(email=EMAIL, password="wrong", client=ClientContext(**client))
    assert await outcome(service.auth().Login(wrong)) == "CREDENTIALS_INVALID"
    again = RegisterRequest(email=EMAIL, password=PASSWORD)
    await outcome(service.auth().Register(again))
    await service.judge_token(tokens.access_token)
    await service.judge_session(tokens.session_token)
    await service.refresh(tokens.refresh_token)
    charge = Charge(policy="api", key="key-4711", cost=1)
    await service.limits().CheckRateLimit(CheckRateLimitRequest(charges=[charge]))
    await service.list_sessions(tokens.user_id)
    await service.app.stop()
    assert len({span.trace_id for span in collector.spans}) >= 8
    known = {attribute for span in SPANS for attribute in span.attributes}
    secrets = (
        *(EMAIL, EMAIL.lower(), PASSWORD, IP, USER_AGENT, DEVICE, "key-4711", "spiffe"),
        *(tokens.user_id, tokens.session_id, tokens.access_token, tokens.refresh_token),
        *(tokens.session_token, "127.0.0.1"),
    )
    for span in collector.spans:
        assert attributes(span).keys() <= known, span.name
        text = str(span)
        for secret in secrets:
            assert secret not in text


async def test_trace_of_a_client_with_opentelemetry_goes_on(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    settings = with_changes(traced_settings, "telemetry", traces_sample_ratio=0.0)
    service = await start_service(settings)
    headers: dict[str, str] = {}
    with TracerProvider().get_tracer("test").start_as_current_span("client") as span:
        TraceContextTextMapPropagator().inject(headers)
        request = LoginRequest(email=EMAIL, password=PASSWORD)
        call = service.auth().Login(request, metadata=tuple(headers.items()))
        assert await outcome(call) == "CREDENTIALS_INVALID"
    login = await collector.span(LOGIN)
    parent = span.get_span_context()
    assert login.trace_id.hex() == trace.format_trace_id(parent.trace_id)
    assert login.parent_span_id.hex() == trace.format_span_id(parent.span_id)


async def test_metrics_say_what_a_scrape_says(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    service = await start_service(traced_settings)
    await service.new_session()
    await service.new_session("grace@navy.test")
    accept = {"Accept": "application/openmetrics-text"}
    url = f"http://127.0.0.1:{service.app.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers=accept) as answer:
        scraped = {
            family.name: family
            for family in text_string_to_metric_families(await answer.text())  # type: ignore[no-untyped-call] # its hints are missing
        }
    await service.app.stop()
    durations = collector.metrics["rpc.server.call.duration"]
    assert durations.unit == "s"
    [point] = (
        point
        for point in durations.histogram.data_points
        if attributes(point) == {RPC_METHOD: LOGIN}
    )
    samples = [
        sample
        for sample in scraped["authsvc_rpc_duration_seconds"].samples
        if sample.labels["method"] == f"/{LOGIN}"
    ]
    buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
    counts = [int(sample.value) for sample in buckets]
    assert point.count == counts[-1] == 2
    assert [sum(point.bucket_counts[: at + 1]) for at in range(len(counts))] == counts
    assert [*point.explicit_bounds] == [float(sample.labels["le"]) for sample in buckets[:-1]]
    [total] = (sample.value for sample in samples if sample.name.endswith("_sum"))
    assert point.sum == pytest.approx(total)
    traced = {sample.exemplar.labels["span_id"] for sample in buckets if sample.exemplar}
    assert {exemplar.span_id.hex() for exemplar in point.exemplars} == traced
    assert traced <= {span.span_id.hex() for span in collector.spans if span.name == LOGIN}
    calls = collector.metrics["authsvc_rpc_calls"].sum
    assert calls.is_monotonic
    for name in set(scraped) & set(collector.metrics):
        assert collector.metrics[name].description == scraped[name].documentation


async def test_drain_sends_the_spans_of_the_last_calls(
    collector: Collector,
    traced_settings: Settings,
    start_service: StartService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "_GATHER_SECONDS", 3_600)
    service = await start_service(traced_settings)
    await service.register()
    assert not collector.spans
    await service.app.stop()
    assert [span.name for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]


async def test_calls_are_answered_while_the_collector_is_away(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    collector.refusal = grpc.StatusCode.UNAVAILABLE
    service = await start_service(traced_settings)
    await service.new_session()
    collector.silent = True
    await collector.until(lambda it: it.calls > 1)
    await service.login()
    async with asyncio.timeout(60):
        await service.app.stop()


async def test_delivery_of_a_mail_is_a_trace(
    collector: Collector,
    traced_settings: Settings,
    start_service: StartService,
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    async with mail_server(authority) as server:
        smtp = settings_for(server, authority, tmp_path)
        settings = with_changes(traced_settings, "delivery", channel="smtp", smtp=smtp)
        service: Service = await start_service(settings)
        await service.register()
        await service.auth().RequestLoginCode(RequestLoginCodeRequest(email=EMAIL))
        delivery = await collector.span(DELIVERY)
        await service.app.stop()
    mail = collector.trace(delivery)[MAIL]
    assert mail.parent_span_id == delivery.span_id
    assert EMAIL not in str(collector.spans)
