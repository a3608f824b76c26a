"""The spans of calls: who decides that there is one, and what it says."""

import asyncio
import json
from io import StringIO
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc import tracing
from authsvc.config import Settings
from authsvc.conventions import ERROR_TYPE, RPC_METHOD, RPC_STATUS, RPC_SYSTEM
from authsvc.errors import StoreUnavailable, credentials_invalid
from authsvc.tracing import Span, SpanKind, Tracer, span
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.probe import STRANGER, ProbeServer, StartProbe, counted

LOGIN = "authsvc.v1.AuthService/Login"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def tracer(ended: list[Span], ratio: float, limit: int = 1_000) -> Tracer:
    return Tracer(ratio=ratio, max_per_second=limit, sink=ended.append)


async def login(probe: ProbeServer, **headers: str) -> str:
    """Call Login; return its code."""
    stub = AuthServiceStub(probe.clients.channel("app"))
    try:
        await stub.Login(pb.LoginRequest(), metadata=tuple(headers.items()))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def check(probe: ProbeServer, caller: str, **headers: str) -> None:
    stub = health_pb2_grpc.HealthStub(probe.clients.channel(caller))
    await stub.Check(health_pb2.HealthCheckRequest(), metadata=tuple(headers.items()))


async def test_call_is_a_span(start_probe: StartProbe, settings: Settings) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=1))

    async def answer(_request: Any) -> None:
        with span("part"):
            pass

    probe.probe.answer = answer
    assert await login(probe) == "OK"
    part, call = ended
    assert (part.parent_id, part.trace_id) == (call.id, call.trace_id)
    assert (call.name, call.kind, call.parent_id) == (LOGIN, SpanKind.SERVER, "")
    assert not call.failed
    assert call.attributes == {RPC_SYSTEM: "grpc", RPC_METHOD: LOGIN, RPC_STATUS: "OK"}


@pytest.mark.parametrize(
    ("error", "code", "reason", "failed"),
    [
        (credentials_invalid(), "UNAUTHENTICATED", "CREDENTIALS_INVALID", False),
        (StoreUnavailable(), "UNAVAILABLE", "STORE_UNAVAILABLE", True),
        (ZeroDivisionError("secret"), "INTERNAL", "INTERNAL", True),
    ],
)
async def test_failure_is_noted_by_its_reason(
    start_probe: StartProbe,
    settings: Settings,
    error: Exception,
    code: str,
    reason: str,
    failed: bool,
) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=1))

    async def fail(_request: Any) -> None:
        raise error

    probe.probe.answer = fail
    assert await login(probe) == code
    [call] = ended
    assert call.failed is failed
    assert call.attributes[RPC_STATUS] == code
    assert call.attributes[ERROR_TYPE] == reason
    assert "secret" not in str(call.attributes)


async def test_cancelled_call_is_a_span(start_probe: StartProbe, settings: Settings) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=1))
    begun = asyncio.Event()

    async def wait(_request: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    probe.probe.answer = wait
    call = AuthServiceStub(probe.clients.channel("app")).Login(pb.LoginRequest())
    await asyncio.wait_for(begun.wait(), 30)
    call.cancel()
    await counted(probe, "CANCELLED")
    assert [each.attributes[ERROR_TYPE] for each in ended] == ["CANCELLED"]


async def test_caller_with_a_role_decides(start_probe: StartProbe, settings: Settings) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=0))
    await login(probe)
    await login(probe, traceparent=UNSAMPLED)
    assert ended == []
    await login(probe, traceparent=SAMPLED, tracestate="a=1")
    [call] = ended
    assert (call.trace_id, call.parent_id, call.trace_state) == (TRACE, PARENT, "a=1")


async def test_stranger_decides_nothing(start_probe: StartProbe, settings: Settings) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=0))
    await check(probe, STRANGER, traceparent=SAMPLED)
    assert ended == []
    await check(probe, "app", traceparent=SAMPLED)
    assert len(ended) == 1
    probe = await start_probe(settings, tracer(ended, ratio=1))
    await check(probe, STRANGER, traceparent=UNSAMPLED)
    assert ended[1].trace_id != TRACE


async def test_callers_cannot_ask_for_more_than_the_limit(
    start_probe: StartProbe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "monotonic", lambda: 5.0)
    ended: list[Span] = []
    limited = tracer(ended, ratio=0, limit=1)
    probe = await start_probe(settings, limited)
    codes = await asyncio.gather(*(login(probe, traceparent=SAMPLED) for _ in range(30)))
    assert set(codes) == {"OK"}
    assert (len(ended), limited.limited) == (1, 29)


async def test_log_lines_of_traced_calls_name_them(
    start_probe: StartProbe, settings: Settings, lines: StringIO
) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=0))

    async def answer(_request: Any) -> None:
        structlog.get_logger("x").info("within")

    probe.probe.answer = answer
    await login(probe, traceparent=SAMPLED)
    await login(probe)
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    traced, untraced = (event for event in events if event["event"] == "within")
    assert (traced["trace_id"], traced["span_id"]) == (TRACE, ended[0].id)
    assert "trace_id" not in untraced
    calls = [event for event in events if event["event"] == "call"]
    assert [event.get("trace_id") for event in calls] == [TRACE, None]


async def test_traced_call_is_an_exemplar_of_its_bucket(
    start_probe: StartProbe, settings: Settings
) -> None:
    ended: list[Span] = []
    probe = await start_probe(settings, tracer(ended, ratio=0))
    await login(probe)
    assert b"trace_id" not in probe.metrics.render(openmetrics=True)
    await login(probe, traceparent=SAMPLED)
    exemplar = f'# {{span_id="{ended[0].id}",trace_id="{TRACE}"}}'
    assert exemplar.encode() in probe.metrics.render(openmetrics=True)
