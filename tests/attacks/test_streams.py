"""Calls that are begun but not completed: no client with a certificate can block the others."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from authsvc.config import Settings
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Connection,
    _framed,
    request_headers,
    tls_context,
)
from tests.support.probe import (
    LOGIN,
    STRANGER,
    ProbeServer,
    StartProbe,
    counted,
    identity_of,
    outcome,
    with_changes,
)

_LIMIT = 4
_VALIDATE = "/authsvc.v1.AuthService/ValidateToken"
WINDOW_UPDATE = 8
# SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, section 6.5.2): the server may send nothing.
_NO_WINDOW = (4).to_bytes(2) + (0).to_bytes(4)
_CHECK, _WATCH = (f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch"))
# More than all limits on calls and watches together, at 250 per connection.
_STREAMS = 1_000


async def _begin(
    stack: AsyncExitStack, probe: ProbeServer, streams: int, method: str, caller: str = STRANGER
) -> list[Connection]:
    """Begin calls and never send their messages."""
    authority = probe.clients.authority
    context = tls_context(authority.certificate, authority.caller(identity_of(caller)))
    connections = []
    for first in range(0, streams, 250):
        connection = await stack.enter_async_context(Connection.open(probe.clients.port, context))
        connections.append(connection)
        for stream in range(min(250, streams - first)):
            await connection.send(HEADERS, END_HEADERS, 2 * stream + 1, request_headers(method, {}))
        # It is acknowledged when everything sent before it has been received.
        await connection.send(PING, payload=bytes(8))
        assert await connection.until(PING) is not None
    return connections


@pytest.mark.parametrize("method", [LOGIN, _CHECK, _WATCH])
async def test_calls_without_message_do_not_block_others(
    method: str, start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(with_changes(settings, "grpc", max_concurrent_rpcs=_LIMIT))
    stub = AuthServiceStub(probe.clients.channel("app"))
    async with AsyncExitStack() as stack:
        # By a caller that may only query the service's health.
        await _begin(stack, probe, _STREAMS, method)
        for _ in range(10):
            assert await outcome(stub.Login(pb.LoginRequest())) == "OK"


@pytest.mark.parametrize("method", [LOGIN, _CHECK, _WATCH])
async def test_call_without_message_times_out(
    method: str, start_probe: StartProbe, settings: Settings
) -> None:
    limited = with_changes(settings, "grpc", call_timeout=timedelta(milliseconds=200))
    probe = await start_probe(limited)
    async with AsyncExitStack() as stack:
        (connection,) = await _begin(stack, probe, 1, method, "app")
        async with asyncio.timeout(30):
            ended = await connection.until(RST_STREAM)
        assert ended is not None
        assert ended.stream == 1


@pytest.mark.parametrize("method", [LOGIN, _CHECK, _WATCH])
async def test_unread_responses_do_not_block_others(
    method: str, start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(with_changes(settings, "grpc", max_concurrent_rpcs=_LIMIT))
    stub = AuthServiceStub(probe.clients.channel("app"))
    authority = probe.clients.authority
    context = tls_context(authority.certificate, authority.caller(identity_of(STRANGER)))
    async with AsyncExitStack() as stack:
        for _ in range(_STREAMS // 250):
            connection = await stack.enter_async_context(
                Connection.open(probe.clients.port, context)
            )
            await connection.send(SETTINGS, payload=_NO_WINDOW)
            for stream in range(1, 500, 2):
                await connection.send(HEADERS, END_HEADERS, stream, request_headers(method, {}))
                await connection.send(DATA, END_STREAM, stream, _framed(b""))
            await connection.send(PING, payload=bytes(8))
            assert await connection.until(PING) is not None
        for _ in range(10):
            assert await outcome(stub.Login(pb.LoginRequest())) == "OK"


async def test_unread_response_occupies_slot_until_read(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(with_changes(settings, "grpc", max_concurrent_rpcs=1))
    # Of the same caller: another one would get the only slot of this one.
    stub = AuthServiceStub(probe.clients.channel("edge"))
    authority = probe.clients.authority
    context = tls_context(authority.certificate, authority.caller(identity_of("edge")))
    async with Connection.open(probe.clients.port, context) as connection:
        await connection.send(SETTINGS, payload=_NO_WINDOW)
        await connection.send(HEADERS, END_HEADERS, 1, request_headers(_VALIDATE, {}))
        await connection.send(DATA, END_STREAM, 1, _framed(b""))
        await counted(probe, "OK", _VALIDATE)
        assert await outcome(stub.ValidateToken(pb.ValidateTokenRequest())) == "OVERLOADED"
        await connection.send(WINDOW_UPDATE, stream=1, payload=(1_000).to_bytes(4))
        while (frame := await connection.frame()) and not frame.flags & END_STREAM:
            pass
        async with asyncio.timeout(30):
            while await outcome(stub.ValidateToken(pb.ValidateTokenRequest())) != "OK":
                pass


async def test_call_ending_without_message_is_rejected(probe: ProbeServer) -> None:
    call = probe.clients.raw("app", LOGIN, "stream_unary")(iter(()))
    assert await outcome(call) == "FIELD_INVALID"
