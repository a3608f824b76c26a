"""A service process under attack by a stranger: its memory, and who is served meanwhile.

A stranger holds a certificate of the authority, but no role. The memory limit is the one that
`deploy/kubernetes` sets.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import yaml

from authsvc.dev.certificates import issue
from authsvc.dev.workspace import Workspace
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    SETTINGS,
    Connection,
    request_headers,
)
from tests.support.processes import Process

pytestmark = [pytest.mark.world, pytest.mark.timeout(300)]

_DEPLOYMENT = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base" / "deployment.yaml"
_LOGIN = "/authsvc.v1.AuthService/Login"
_WATCH = "/grpc.health.v1.Health/Watch"
_CONNECTIONS = 32

# Generous, as the attacker and the service share two cores.
_DEADLINE = 60.0

# A header that enters the dynamic table (RFC 7541, section 6.2.1), and a reference to it.
_LARGE_HEADER = b"\x40\x01a\x7f\xbd\x1d" + 3_900 * b"x"
_TINY_HEADER = b"\x40\x01a\x00"
_REFERENCE = b"\xbe"
# `accept-charset` of the static table needs no header before it.
_STATIC_REFERENCE = b"\x8f"


@dataclass(frozen=True)
class Attacked:
    """A service process, and what is needed to attack and to use it."""

    pid: int
    port: int
    certificates: Path

    def context(self, caller: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.certificates / "ca.crt")
        context.set_alpn_protocols(["h2"])
        client = self.certificates / "clients" / caller
        context.load_cert_chain(f"{client}.crt", f"{client}.key")
        return context

    def channel(self, caller: str) -> grpc.aio.Channel:
        client = self.certificates / "clients" / caller
        credentials = grpc.ssl_channel_credentials(
            (self.certificates / "ca.crt").read_bytes(),
            client.with_suffix(".key").read_bytes(),
            client.with_suffix(".crt").read_bytes(),
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options)

    def peak_mib(self) -> float:
        """Return the most memory that the process ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1_024


@pytest.fixture
def attacked(tmp_path: Path, database_dsn: str, start: Callable[..., Process]) -> Attacked:
    """The service as it is shipped, and a stranger's certificate."""
    workspace = Workspace(tmp_path / ".authsvc")
    workspace.prepare()
    workspace.set_database(database_dsn)
    issue(workspace.certificates, "stranger", uris=["spiffe://authsvc.dev/stranger"])
    service = start(
        *("serve", "-c", str(workspace.config), "--secrets", str(workspace.secrets)),
        AUTHSVC_GRPC__ADDRESS="127.0.0.1:0",
    )
    port = int(service.wait_for(r'serving.*"grpc": ?"[^"]+:(\d+)"')[1])
    return Attacked(service.pid, port, workspace.certificates)


def memory_limit_mib() -> float:
    """Return the memory limit of the service's container."""
    deployment = yaml.safe_load(_DEPLOYMENT.read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    limit: str = container["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    return float(limit.removesuffix("Mi"))


@asynccontextmanager
async def in_use(attacked: Attacked) -> AsyncIterator[None]:
    """Use the service all the while, and require that each call is answered."""
    ended = asyncio.Event()

    async def use() -> int:
        async with attacked.channel("edge") as channel:
            calls = 0
            while not ended.is_set() or not calls:
                request = ValidateTokenRequest(access_token="x")
                await AuthServiceStub(channel).ValidateToken(request, timeout=_DEADLINE)
                calls += 1
                await asyncio.sleep(0.05)
            return calls

    async with asyncio.TaskGroup() as group:
        group.create_task(use())
        yield
        ended.set()


async def large_headers(connection: Connection) -> None:
    for stream in range(1, 120, 2):
        header = _LARGE_HEADER if stream == 1 else 8_000 * _REFERENCE
        block = request_headers(_LOGIN, {}) + header
        await connection.send(HEADERS, END_HEADERS, stream, block)


async def tiny_headers(connection: Connection) -> None:
    for stream in range(1, 120, 2):
        header = _TINY_HEADER if stream == 1 else 16_000 * _REFERENCE
        block = request_headers(_LOGIN, {}) + header
        await connection.send(HEADERS, END_HEADERS, stream, block)


async def endless_header(connection: Connection) -> None:
    await connection.send(HEADERS, 0, 1, request_headers(_LOGIN, {}))
    for _ in range(28):
        await connection.send(CONTINUATION, 0, 1, 16_000 * _STATIC_REFERENCE)
    await connection.send(CONTINUATION, END_HEADERS, 1, _STATIC_REFERENCE)


async def unread_data(connection: Connection) -> None:
    for stream in range(1, 60, 2):
        await connection.send(HEADERS, END_HEADERS, stream, request_headers(_WATCH, {}))
        await connection.send(DATA, 0, stream, bytes(5))
        for _ in range(8):
            await connection.send(DATA, 0, stream, bytes(16_384))


async def resets(connection: Connection) -> None:
    for stream in range(1, 2_000, 2):
        await connection.open_and_reset(_LOGIN, stream)


async def settings(connection: Connection) -> None:
    for _ in range(2_000):
        await connection.send(SETTINGS)


async def pings(connection: Connection) -> None:
    for _ in range(2_000):
        await connection.send(PING, payload=bytes(8))


_ATTACKS = [large_headers, tiny_headers, endless_header, unread_data, resets, settings, pings]


@pytest.mark.parametrize("attack", _ATTACKS, ids=lambda attack: attack.__name__)
async def test_memory_stays_below_limit_of_the_deployment(
    attack: Callable[[Connection], Awaitable[None]], attacked: Attacked
) -> None:
    context = attacked.context("stranger")

    async def attack_once(stack: AsyncExitStack) -> None:
        # It is reset while it sends, or while it connects.
        with suppress(OSError):
            opening = Connection.open(attacked.port, context)
            connection = await stack.enter_async_context(opening)
            await attack(connection)
            # It is acknowledged when everything before it has been processed.
            await connection.send(PING, payload=b"the last")
            while (frame := await connection.frame()) and frame.payload != b"the last":
                pass

    async with in_use(attacked), AsyncExitStack() as stack:
        await asyncio.gather(*(attack_once(stack) for _ in range(_CONNECTIONS)))
    assert attacked.peak_mib() < memory_limit_mib()


@pytest.mark.parametrize("handshake", [True, False])
async def test_idle_connections_of_stranger_leave_room_for_others(
    handshake: bool, attacked: Attacked
) -> None:
    context = attacked.context("stranger")
    async with AsyncExitStack() as stack:

        async def connect() -> None:
            with suppress(OSError):
                if handshake:
                    opening = Connection.open(attacked.port, context)
                    connection = await stack.enter_async_context(opening)
                    await connection.send(SETTINGS, ACK)
                else:
                    address = ("127.0.0.1", attacked.port)
                    stack.enter_context(socket.create_connection(address))

        for _ in range(21):
            await asyncio.gather(*(connect() for _ in range(50)))
        # Newcomers, each over a connection of its own.
        for _ in range(10):
            async with attacked.channel("edge") as channel:
                request = ValidateTokenRequest(access_token="x")
                await AuthServiceStub(channel).ValidateToken(
                    request, timeout=_DEADLINE, wait_for_ready=True
                )
