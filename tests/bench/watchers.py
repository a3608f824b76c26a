"""Owns the measurement of WatchRevocations: the service's CPU for many watchers."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.doorbell import Channel
from authsvc.v1.session_service_pb2 import WatchRevocationsRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.bench.processes import Target

if TYPE_CHECKING:
    from authsvc.v1.session_service_pb2_grpc import SessionServiceAsyncStub

# Revocations a second, and how often.
_RATE = 300
_STEP = 0.01
_ROLES = ("app", "edge")


async def measure_watchers(
    service: Target, folder: Path, *, watchers: int, seconds: float
) -> tuple[float, float]:
    """Return the CPU seconds a second, and the messages a second for each watcher."""
    received = 0

    async def watch(stub: "SessionServiceAsyncStub", complete: asyncio.Event) -> None:
        nonlocal received
        async for response in stub.WatchRevocations(WatchRevocationsRequest()):
            received += 1
            if response.complete:
                complete.set()

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        streams = []
        for number in range(watchers):
            channel = await stack.enter_async_context(service.channel(_ROLES[number % len(_ROLES)]))
            complete = asyncio.Event()
            streams.append(group.create_task(watch(SessionServiceStub(channel), complete)))
            await complete.wait()
        revoking = group.create_task(_revoke(EmbeddedPostgres(folder).dsn()))
        await asyncio.sleep(1)
        before, began, used = received, time.monotonic(), service.cpu_us()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        cpu, messages = service.cpu_us() - used, received - before
        for task in (revoking, *streams):
            task.cancel()
    return cpu / 1e6 / took, messages / watchers / took


async def _revoke(dsn: str) -> None:
    """Append revocations to the log, as other replicas would, until cancelled."""
    connection = await asyncpg.connect(dsn)
    try:
        due = time.monotonic()
        while True:
            await connection.executemany(
                "INSERT INTO revocations (session_id, revoke_time) VALUES ($1, now())",
                [(uuid4(),) for _ in range(int(_RATE * _STEP))],
            )
            await connection.execute("SELECT pg_notify($1, 'bench')", Channel.REVOCATIONS)
            due += _STEP
            await asyncio.sleep(due - time.monotonic())
    finally:
        await connection.close()
