"""Clock and faults are for the holder of the fixture alone: no call and no request reaches them."""

import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest

from authsvc.rpc.access import ACCESS
from authsvc.testing import TestService
from authsvc.testing.service import Role


def _assert_untouched(service: TestService) -> None:
    assert abs(service.clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
    gate = service.faults._gate
    assert gate.delays == gate.outages == gate.cuts == []


@pytest.mark.parametrize("role", ["app", "edge", "issuer", "admin", "observer"])
def test_no_rpc_reaches_clock_or_faults(authsvc_service: TestService, role: Role) -> None:
    files = authsvc_service.certificate(role)
    credentials = grpc.ssl_channel_credentials(
        authsvc_service.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
    )
    with grpc.secure_channel(authsvc_service.target, credentials) as channel:
        for method in ACCESS:
            rpc: Any = channel.stream_stream(method)
            call = rpc(iter([b""]), timeout=10)
            with suppress(grpc.RpcError):
                # One answer is enough of a stream that has no end.
                next(call, None)
            call.cancel()
    _assert_untouched(authsvc_service)


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_no_http_request_reaches_clock_or_faults(authsvc_service: TestService, verb: str) -> None:
    for path in ("livez", "metrics", "clock", "faults", "testing", "debug", "clock?move=3600"):
        with suppress(HTTPError):
            urlopen(Request(f"{authsvc_service.http_url}/{path}", method=verb)).close()
    _assert_untouched(authsvc_service)


def test_service_without_plugin_knows_neither() -> None:
    code = "import sys, authsvc.cli.main, authsvc.app.application; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "authsvc.app.application" in loaded
    assert [name for name in loaded if name.startswith("authsvc.testing")] == []
