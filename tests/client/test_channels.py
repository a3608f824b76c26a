"""The channels of both clients: renewed certificates, streams, closing, what calls pass on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from authsvc.client import (
    AsyncClient,
    CertificateError,
    Client,
    ClientClosed,
    ServiceUnavailable,
    context,
    errors,
)
from authsvc.v1.admin_service_pb2 import WatchAuditEventsRequest
from authsvc.v1.auth_service_pb2 import LoginRequest, ValidateTokenRequest
from tests.support.certificates import Authority
from tests.support.clients import OpenAsync, OpenTwin, TlsFiles, Twin, tls_files
from tests.support.probe import STRANGER, ProbeServer
from tests.support.service import Service

READ = "auth.ValidateToken"
REQUEST = ValidateTokenRequest(access_token="t")
TWINS = [AsyncClient, Client]


class Held:
    """A call that goes on until it is let go."""

    def __init__(self, probe: ProbeServer) -> None:
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        probe.probe.answer = self

    async def __call__(self, _request: Any) -> None:
        self.arrived.set()
        await self.go_on.wait()


@pytest.fixture(params=TWINS, ids=lambda kind: kind.__name__)
async def twin(request: pytest.FixtureRequest, probe: ProbeServer, app_files: TlsFiles) -> Any:
    """Either client, with certificates that the test may change."""
    twin = Twin(request.param(f"127.0.0.1:{probe.clients.port}", **app_files.parameters))
    yield twin
    await twin.close()


def let_look(twin: Twin) -> None:
    """Let the next call look at the files."""
    twin.client.channel._renewal._next = 0.0


async def test_changed_certificate_is_used_by_the_next_call(
    twin: Twin, probe: ProbeServer, app_files: TlsFiles
) -> None:
    held = Held(probe)
    running = asyncio.ensure_future(twin.call("auth.Login", LoginRequest(), timeout=60))
    await held.arrived.wait()
    app_files.write_for(STRANGER)
    let_look(twin)
    # The new one has no role: that is how the server is seen to see it.
    with pytest.raises(errors.CallerNotAllowed):
        await twin.call(READ, REQUEST)
    # What was under way is not disturbed.
    held.go_on.set()
    await running
    assert not twin.client.channel._old
    app_files.write_for("app")
    let_look(twin)
    assert (await twin.call(READ, REQUEST)).active


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("ca", "not valid by what is in `ca`"),
        ("name", "not for the name of the target"),
        ("port", "does not speak TLS"),
    ],
)
async def test_service_that_is_not_trusted_is_told_from_one_that_is_away(
    open_twin: OpenTwin, service: Service, tmp_path: Path, wrong: str, said: str
) -> None:
    options: dict[str, Any] = {"retries": 0, "timeout": 60}
    port = service.app.http_port if wrong == "port" else service.app.grpc_port
    open_twin(port)
    if wrong == "name":
        options["server_name"] = "authsvc.elsewhere.example"
    elif wrong == "ca":
        (tmp_path / "tls_of_app" / "ca.crt").write_bytes(Authority().certificate)
    twin = open_twin(port, **options)
    with pytest.raises(errors.CertificateRefused, match=said):
        await twin.call(READ, REQUEST)


async def test_service_that_refuses_the_certificate_of_the_client_seems_away(
    open_twin: OpenTwin, service: Service, tmp_path: Path
) -> None:
    open_twin(service.app.grpc_port)
    TlsFiles(tmp_path / "tls_of_app", Authority()).write_for("app")
    twin = open_twin(service.app.grpc_port, retries=0, timeout=60)
    with pytest.raises(ServiceUnavailable, match="or refuses the certificate of this client"):
        await twin.call(READ, REQUEST)


async def test_files_are_not_read_for_each_call(twin: Twin, app_files: TlsFiles) -> None:
    assert (await twin.call(READ, REQUEST)).active
    app_files.write_for(STRANGER)
    assert (await twin.call(READ, REQUEST)).active


@pytest.mark.parametrize("kind", TWINS)
async def test_unusable_certificate_is_reported_and_not_used(
    kind: type, probe: ProbeServer, app_files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[CertificateError] = []
    options = app_files.parameters | {"on_certificate_error": reported.append}
    twin = Twin(kind(f"127.0.0.1:{probe.clients.port}", **options))
    (app_files.folder / "client.key").write_bytes(app_files.authority.caller("x:y").key)
    for _ in range(2):
        let_look(twin)
        assert (await twin.call(READ, REQUEST)).active
    assert [str(each).partition(": ")[2] for each in reported] == [
        f"not the key of {app_files.folder}/client.crt"
    ]
    assert len(caplog.records) == 1
    # As soon as both files are there, they are used.
    app_files.write_for(STRANGER)
    let_look(twin)
    with pytest.raises(errors.CallerNotAllowed):
        await twin.call(READ, REQUEST)
    await twin.close()


@pytest.mark.parametrize("kind", TWINS)
async def test_failed_handshake_makes_the_client_look_at_its_files(
    kind: type, probe: ProbeServer, authority: Authority, tmp_path: Path
) -> None:
    # The server doesn't know the authority of this one, as if it had been replaced meanwhile.
    files = tls_files(tmp_path / "tls", Authority("Another authority"))
    (files.folder / "ca.crt").write_bytes(authority.certificate)
    twin = Twin(kind(f"127.0.0.1:{probe.clients.port}", **files.parameters, timeout=60))
    with pytest.raises(ServiceUnavailable):
        await twin.call("auth.Login", LoginRequest())
    TlsFiles(files.folder, authority).write_for("app")
    twin.client.channel._renewal._last = 0.0  # the last look was more than a second ago
    assert (await twin.call(READ, REQUEST)).active
    await twin.close()


async def test_streams_raise_errors_by_reason(service: Service, open_twin: OpenTwin) -> None:
    for caller, error in (("app", errors.CallerNotAllowed), ("admin", errors.FieldInvalid)):
        twin = open_twin(service.app.grpc_port, caller)
        stream = await twin.stream("admin.WatchAuditEvents", WatchAuditEventsRequest(cursor="?"))
        with pytest.raises(error) as caught:
            await twin.next_of(stream)
        assert caught.value.request_id


async def drain(twin: Twin, stream: Any) -> None:
    while await twin.next_of(stream) is not None:
        pass


async def test_cancelled_stream_ends(service: Service, open_twin: OpenTwin) -> None:
    twin = open_twin(service.app.grpc_port, "admin")
    stream = await twin.stream("admin.WatchAuditEvents", WatchAuditEventsRequest())
    first = await twin.next_of(stream)
    assert first.cursor
    stream.cancel()
    await drain(twin, stream)


async def test_closing_the_client_ends_its_streams_and_calls(
    service: Service, open_twin: OpenTwin
) -> None:
    twin = open_twin(service.app.grpc_port, "admin")
    stream = await twin.stream("admin.WatchAuditEvents", WatchAuditEventsRequest())
    await twin.next_of(stream)
    await twin.close()
    with pytest.raises(ClientClosed):
        await drain(twin, stream)
    with pytest.raises(ClientClosed):
        await twin.call("auth.ValidateToken", REQUEST)
    with pytest.raises(ClientClosed):
        await twin.stream("admin.WatchAuditEvents", WatchAuditEventsRequest())


async def test_closing_the_client_fails_its_calls(probe: ProbeServer, open_twin: OpenTwin) -> None:
    twin = open_twin(probe.clients.port, timeout=60)
    held = Held(probe)
    call = asyncio.ensure_future(twin.call(READ, REQUEST))
    await held.arrived.wait()
    await twin.close()
    # Not as cancelled: nobody has cancelled the task that waits. And it is not repeated.
    with pytest.raises(ClientClosed):
        await call


async def test_cancelled_reader_of_a_stream_is_cancelled(
    service: Service, open_async: OpenAsync
) -> None:
    client = open_async(service.app.grpc_port, "admin")

    async def read() -> None:
        async for _ in client.admin.WatchAuditEvents(WatchAuditEventsRequest()):
            began.set()

    began = asyncio.Event()
    reader = asyncio.ensure_future(read())
    await began.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_calls_pass_the_request_id_on(probe: ProbeServer, open_twin: OpenTwin) -> None:
    twin = open_twin(probe.clients.port, STRANGER)
    context.request_id.set("request-1")
    with pytest.raises(errors.CallerNotAllowed) as caught:
        await twin.call("auth.Login", LoginRequest())
    assert caught.value.request_id == "request-1"


def test_only_ids_are_passed_on() -> None:
    span = f"00-{'a' * 32}-{'b' * 16}-01"
    context.traceparent.set(span)
    context.request_id.set("request-1")
    assert context.metadata_of_request() == (("x-request-id", "request-1"), ("traceparent", span))
    # gRPC would refuse the call for it.
    context.request_id.set("a\nb")
    context.traceparent.set("ü")
    assert context.metadata_of_request() == ()
