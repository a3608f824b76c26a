"""The traces, metrics and log lines of the running service, as a collector receives them."""

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from authsvc import conventions
from authsvc.config import Settings
from authsvc.v1.auth_service_pb2 import LoginRequest, RegisterRequest
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.otlp import Collector, attributes
from tests.support.probe import outcome
from tests.support.service import Service, StartService

LOGIN = "authsvc.v1.AuthService/Login"
IP = "198.51.100.23"


@pytest.fixture
def traced_settings(live_settings: Settings, collector: Collector) -> Settings:
    return live_settings.model_copy(update={"telemetry": collector.settings()})


async def test_call_is_a_span_with_its_statements_and_hash(
    collector: Collector, traced_settings: Settings, start_service: StartService
) -> None:
    service = await start_service(traced_settings)
    await service.new_session(ip=IP)
    login = await collector.span(LOGIN)
    await service.app.stop()
    assert login.kind == Span.SPAN_KIND_SERVER
    assert not login.parent_span_id
    assert attributes(login) == {
        conventions.RPC_SYSTEM: "grpc",
        conventions.RPC_METHOD: LOGIN,
        conventions.RPC_STATUS: "OK",
    }
    for s in collector.spans: print(s.name, attributes(s))
