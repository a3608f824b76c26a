"""What faults are made with: servers, installations, users, and work that goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.accounts import PASSWORD
from tests.world.alerts.installation import Installation, Replica
from tests.world.alerts.stage import Stage

_NUMBERS = count(1)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the faults are made with: the stage, servers, and installations by name."""

    stage: Stage
    folder: Path
    server: EmbeddedPostgres
    other: EmbeddedPostgres

    @asynccontextmanager
    async def installation(
        self,
        name: str,
        settings: str = "",
        *,
        other: bool = False,
        replaced: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Installation]:
        """Prepare an installation; what it has started ends with it."""
        installation = Installation(
            name,
            folder=self.folder,
            prometheus=self.stage.prometheus,
            server=self.other if other else self.server,
            settings=settings,
            replaced=replaced,
        )
        await installation.prepare()
        try:
            yield installation
        finally:
            await installation.stop()


@asynccontextmanager
async def going_on(work: Callable[[], Awaitable[object]], parallel: int = 1) -> AsyncIterator[None]:
    """Do something again and again, however it ends, in several tasks."""

    async def again() -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                await work()
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(again()) for _ in range(parallel)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def anybody() -> tuple[str, ClientContext]:
    """Return an address and a client that nobody had before."""
    number = next(_NUMBERS)
    return f"user{number}@example.test", ClientContext(ip=f"2001:db8:{number:x}::1")


async def registered(replica: Replica) -> str:
    """Register a user and return the address."""
    email, client = anybody()
    request = auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
    await AuthServiceStub(replica.channel("app")).Register(request)
    return email


async def logged_in(replica: Replica, email: str, client: ClientContext | None = None) -> Tokens:
    request = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client or anybody()[1])
    return (await AuthServiceStub(replica.channel("app")).Login(request)).tokens


def flood(replica: Replica) -> Callable[[], Awaitable[object]]:
    """Return a login of nobody from nowhere, which takes a hash."""

    def login() -> Awaitable[object]:
        email, client = anybody()
        request = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client)
        return AuthServiceStub(replica.channel("app")).Login(request)

    return login


async def nothing() -> None:
    """Cause nothing: the fault was there from the start."""
