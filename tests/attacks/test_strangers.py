"""Callers without a role, who may only ask for the service's health, shut nobody out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import Authority, Certificate
from tests.support.http2 import END_STREAM, HEADERS, Connection, tls_context
from tests.support.probe import STRANGER, ProbeServer, identity_of, outcome

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
STREAMS = 250
EMPTY = bytes(5)


@asynccontextmanager
async def held(
    probe: ProbeServer, authority: Authority, caller: Certificate, method: str, message: bytes
) -> AsyncIterator[None]:
    """Hold as many streams of a caller as the server lets it, out of `STREAMS`."""
    context = tls_context(authority.certificate, caller)
    async with Connection.open(probe.server.port, context) as connection:
        streams = range(1, 2 * STREAMS, 2)
        for stream in streams:
            await connection.start(method, stream, message)
        waiting = set(streams)
        async with asyncio.timeout(60):
            # The last ones are refused, and all before them have been served or are held.
            while (frame := await connection.frame()) and streams[-1] in waiting:
                if frame.flags & END_STREAM and frame.kind == HEADERS:
                    waiting.discard(frame.stream)
        assert len(waiting) > 20
        yield


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
