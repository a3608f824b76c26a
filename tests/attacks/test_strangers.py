"""Callers without a role, who may only ask for the service's health, shut nobody out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import Authority, Certificate
from tests.support.http2 import END_STREAM, HEADERS, Connection, tls_context
from tests.support.probe import STRANGER, ProbeServer, identity_of, outcome

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
LIST = "/grpc.health.v1.Health/List"
# Together more than all strangers may hold; on each fewer than a connection may have.
CONNECTIONS, STREAMS = 3, 90
EMPTY = bytes(5)


@asynccontextmanager
async def held(
    probe: ProbeServer, authority: Authority, caller: Certificate, method: str, message: bytes
) -> AsyncIterator[None]:
    """Hold as many streams of a caller as the server lets it, on a few connections."""
    context = tls_context(authority.certificate, caller)
    async with AsyncExitStack() as stack:
        held = 0
        for _ in range(CONNECTIONS):
            connection = await stack.enter_async_context(
                Connection.open(probe.server.port, context)
            )
            held += await held_on(connection, method, message)
        assert 20 < held < CONNECTIONS * STREAMS
        yield


async def held_on(connection: Connection, method: str, message: bytes) -> int:
    """Open streams on a connection; return how many were not refused."""
    streams = range(1, 2 * STREAMS, 2)
    for stream in streams:
        await connection.start(method, stream, message)
    refused = set()
    # Ended by a call that is answered in any case, and served after those before it.
    await connection.begin(LIST, b"", streams[-1] + 2)
    async with asyncio.timeout(60):
        while frame := await connection.frame():
            if frame.kind == HEADERS and frame.flags & END_STREAM:
                refused.add(frame.stream)
                if streams[-1] + 2 in refused:
                    break
    return STREAMS - len(refused) + 1


async def healthy(channel: grpc.aio.Channel) -> list[str]:
    """Return how a check and a watch end."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    watch = stub.Watch(request)
    ends = [await outcome(stub.Check(request)), await outcome(anext(aiter(watch)))]
    watch.cancel()
    return ends


@pytest.mark.parametrize(("method", "message"), [(CHECK, b""), (WATCH, b""), (WATCH, EMPTY)])
async def test_streams_of_one_stranger_leave_health_to_others(
    method: str, message: bytes, probe: ProbeServer, authority: Authority
) -> None:
    stranger = authority.issue(common_name="stranger")
    async with held(probe, authority, stranger, method, message):
        for other in (
            authority.server(),  # the probe of Kubernetes
            authority.issue(common_name="another without an identity"),
            authority.caller(identity_of(STRANGER)),
            authority.caller(identity_of("app")),
        ):
            assert await healthy(probe.clients.open(other)) == ["OK", "OK"]
        assert await outcome(probe.login()) == "OK"
