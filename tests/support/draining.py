"""Rounds of a server that is stopped under load, counted by how its calls end."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.probe import ProbeServer

CALLERS = 40
_LATENCY = 0.002


async def drained(probe: ProbeServer, channels: Sequence[grpc.aio.Channel]) -> Counter[str]:
    """Drain a server that 40 callers keep busy; return how their calls ended, by code.

    Under "lost" are those that were served, but whose answer did not arrive.
    """
    served, ended, enough = 0, Counter[str](), asyncio.Event()

    async def serve(_request: Any) -> None:
        nonlocal served
        await asyncio.sleep(0.01)
        served += 1
        if served == 2 * CALLERS:
            enough.set()

    async def call(number: int) -> None:
        stub = AuthServiceStub(channels[number % len(channels)])
        while not stopped.is_set():
            try:
                await stub.Login(pb.LoginRequest(), timeout=30)
            except grpc.aio.AioRpcError as error:
                ended[error.code().name] += 1
            else:
                ended["OK"] += 1

    stopped = asyncio.Event()
    probe.probe.answer = serve
    callers = [asyncio.create_task(call(number)) for number in range(CALLERS)]
    await enough.wait()
    await probe.server.drain(30)
    stopped.set()
    await asyncio.gather(*callers)
    ended["lost"] = served - ended["OK"]
    return ended


@asynccontextmanager
async def relay(port: int) -> AsyncIterator[int]:
    """Relay to a port with some latency, as a proxy in another place would; yield the relay's."""
    writers: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        writers.add(upstream)
        await asyncio.gather(pump(reader, upstream), pump(upstream_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(_LATENCY)
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
