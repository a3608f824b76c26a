"""Faults that tests inject: each is what callers see of the real one, and ends with its block."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest

from authsvc.client import Client
from authsvc.client.errors import (
    AuthsvcError,
    ServiceTimeout,
    ServiceUnavailable,
    StoreUnavailable,
)
from authsvc.testing import TestService
from authsvc.testing.faults import _Response
from authsvc.v1.admin_service_pb2 import WatchAuditEventsRequest
from authsvc.v1.auth_service_pb2 import GetJwksRequest, ValidateTokenRequest
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest

_CHECK = CheckRateLimitRequest(charges=[Charge(policy="login", key="faults")], dry_run=True)


@pytest.fixture
def app(authsvc_service: TestService) -> Iterator[Client]:
    """A client that tries once."""
    files = authsvc_service.certificate()
    with Client(
        authsvc_service.target,
        ca=authsvc_service.ca,
        cert=files.cert,
        key=files.key,
        timeout=30,
        retries=0,
    ) as client:
        yield client


def test_slow_service_answers_late(authsvc_service: TestService, app: Client) -> None:
    app.auth.GetJwks(GetJwksRequest())
    with authsvc_service.faults.slow(0.2), authsvc_service.faults.slow(0.1):
        started = time.monotonic()
        app.auth.GetJwks(GetJwksRequest())
        assert time.monotonic() - started >= 0.3
        with pytest.raises(ServiceTimeout):
            app.auth.GetJwks(GetJwksRequest(), timeout=0.05)
        started = time.monotonic()
        urlopen(f"{authsvc_service.http_url}/livez").close()
        assert time.monotonic() - started >= 0.3
    app.auth.GetJwks(GetJwksRequest())
    with pytest.raises(ValueError, match="negative"), authsvc_service.faults.slow(-1):
        pass


def test_unavailable_service_refuses_everything(authsvc_service: TestService, app: Client) -> None:
    with authsvc_service.faults.unavailable():
        with pytest.raises(ServiceUnavailable) as refused:
            app.auth.GetJwks(GetJwksRequest())
        with pytest.raises(HTTPError) as status:
            urlopen(f"{authsvc_service.http_url}/.well-known/jwks.json")
        status.value.close()
    assert refused.value.code == grpc.StatusCode.UNAVAILABLE
    assert refused.value.is_retryable
    assert status.value.code == 503
    app.auth.GetJwks(GetJwksRequest())
    urlopen(f"{authsvc_service.http_url}/.well-known/jwks.json").close()


def test_patient_client_survives_short_outage(authsvc_service: TestService) -> None:
    with authsvc_service.client() as client, authsvc_service.faults.unavailable():
        answered = threading.Thread(target=client.auth.GetJwks, args=(GetJwksRequest(),))
        answered.start()
        authsvc_service.faults.reset()
        answered.join()


@pytest.mark.parametrize("calls_go_on", [True, False])
def test_streams_are_cut(authsvc_service: TestService, app: Client, calls_go_on: bool) -> None:
    faults = authsvc_service.faults
    with authsvc_service.client("observer") as observer:
        watch = observer.admin.WatchAuditEvents(WatchAuditEventsRequest())
        next(watch)
        with faults.cut_streams() if calls_go_on else faults.unavailable():
            with pytest.raises(ServiceUnavailable):
                list(watch)
            with pytest.raises(ServiceUnavailable):
                list(observer.admin.WatchAuditEvents(WatchAuditEventsRequest()))
            if calls_go_on:
                app.auth.GetJwks(GetJwksRequest())
        watch = observer.admin.WatchAuditEvents(WatchAuditEventsRequest())
        next(watch)
        watch.cancel()


def test_service_without_database_fails_closed_and_recovers(
    authsvc_service: TestService, app: Client
) -> None:
    user = authsvc_service.user()
    token = authsvc_service.tokens(user).access_token
    strict = ValidateTokenRequest(access_token=token, strict=True)
    with authsvc_service.faults.database_gone():
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                app.limits.CheckRateLimit(_CHECK)
            with pytest.raises(StoreUnavailable):
                app.auth.ValidateToken(strict)
        app.auth.GetJwks(GetJwksRequest())
        # Otherwise it could just go on where it was.
        while authsvc_service._app._parts.revocation_reader.is_fresh():
            time.sleep(0.01)
    assert authsvc_service._run(authsvc_service._app.is_current())
    assert app.limits.CheckRateLimit(_CHECK).allowed
    assert app.auth.ValidateToken(strict).active
    assert authsvc_service.tokens(user).user_id == user.user_id


def test_clock_waits_for_database(authsvc_service: TestService) -> None:
    before = authsvc_service.clock.now()
    with authsvc_service.faults.database_gone(), pytest.raises(RuntimeError, match="database"):
        authsvc_service.clock.move(3_600)
    assert authsvc_service.clock.now() - before < timedelta(minutes=50)


def test_faults_end_with_failing_block_and_with_reset(
    authsvc_service: TestService, app: Client
) -> None:
    with pytest.raises(AuthsvcError), authsvc_service.faults.unavailable():
        app.auth.GetJwks(GetJwksRequest())
    app.auth.GetJwks(GetJwksRequest())
    with authsvc_service.faults.unavailable(), authsvc_service.faults.database_gone():
        authsvc_service.reset()
        assert app.limits.CheckRateLimit(_CHECK).allowed
        with authsvc_service.faults.unavailable(), pytest.raises(ServiceUnavailable):
            app.auth.GetJwks(GetJwksRequest())
        app.auth.GetJwks(GetJwksRequest())


async def test_write_in_progress_is_finished_before_stream_is_cut() -> None:
    """gRPC refuses to end a call in the middle of a write."""
    steps: list[str] = []
    began, may_end = asyncio.Event(), asyncio.Event()

    class Context:
        async def write(self, message: str) -> None:
            steps.append(f"begin {message}")
            began.set()
            await may_end.wait()
            steps.append(f"end {message}")

    response = _Response(cast("Any", Context()))
    stream = asyncio.create_task(response.write("news"))
    await began.wait()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    asyncio.get_running_loop().call_soon(may_end.set)
    await response.finish_write()
    assert steps == ["begin news", "end news"]
