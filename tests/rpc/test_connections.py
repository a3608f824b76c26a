"""The bounds on connections: for each caller, network and stranger, and without calls."""

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from authsvc.config import CallerSettings, Settings
from authsvc.models.calls import Role
from authsvc.rpc.callers import Callers
from authsvc.rpc.connections import Connections
from authsvc.rpc.sockets import Socket, Sockets
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support import logs
from tests.support.certificates import Authority, Certificate
from tests.support.clock import FakeClock
from tests.support.http2 import CONTINUATION, HEADERS, PING, Connection, tls_context
from tests.support.probe import (
    STRANGER,
    ProbeServer,
    StartProbe,
    identity_of,
    outcome,
    with_changes,
)

_CHECK = "/grpc.health.v1.Health/Check"
_VALIDATE = "/authsvc.v1.AuthService/ValidateToken"
# `accept-charset` of the static table (RFC 7541, appendix A), as an indexed field.
_HEADER_REFERENCE = b"\x8f"


def limited(settings: Settings, **changes: Any) -> Settings:
    return with_changes(settings, "grpc", **changes)


def ended(probe: ProbeServer, reason: str) -> float:
    """Return how many connections were ended for this reason."""
    name = "authsvc_connections_ended_total"
    return probe.metrics.registry.get_sample_value(name, {"reason": reason}) or 0


class Peers:
    """Opens connections to a server, and says which of them the server has ended."""

    def __init__(self, probe: ProbeServer, authority: Authority, stack: AsyncExitStack) -> None:
        self._probe = probe
        self._authority = authority
        self._stack = stack

    def context(self, caller: str) -> ssl.SSLContext:
        return self.context_of(self._authority.caller(identity_of(caller)))

    def context_of(self, certificate: Certificate) -> ssl.SSLContext:
        return tls_context(self._authority.certificate, certificate)

    async def open(self, context: ssl.SSLContext, count: int = 1) -> list[Connection]:
        """Open connections one after another."""
        return [
            await self._stack.enter_async_context(Connection.open(self._probe.server.port, context))
            for _ in range(count)
        ]

    async def refused(self, context: ssl.SSLContext) -> None:
        """Open a connection and wait for its end, which may come in its handshake already."""
        with suppress(OSError):
            (connection,) = await self.open(context)
            async with asyncio.timeout(30):
                while await connection.frame() is not None:
                    pass

    async def seen(self, count: int) -> None:
        """Wait until the server has seen that so many are open: the next one is the newest."""
        value = self._probe.metrics.registry.get_sample_value
        async with asyncio.timeout(30):
            while value("authsvc_connections_open") != count:  # noqa: ASYNC110 - see below
                await asyncio.sleep(0.01)

    async def ended(self, reason: str, count: int) -> None:
        """Wait until so many connections were ended for this reason."""
        async with asyncio.timeout(30):
            while ended(self._probe, reason) < count:  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.01)


async def answers(connection: Connection) -> bool:
    """Return whether the server still answers over a connection."""
    try:
        await connection.send(PING, payload=bytes(8))
    except OSError:
        return False
    async with asyncio.timeout(30):
        return await connection.until(PING) is not None


async def alive(connections: Sequence[Connection]) -> list[bool]:
    return [await answers(connection) for connection in connections]


async def call(connection: Connection, method: str) -> None:
    """Make a call, with whatever outcome."""
    async with asyncio.timeout(30):
        assert await connection.call(method)


@pytest.fixture
async def stack() -> Any:
    async with AsyncExitStack() as opened:
        yield opened


async def test_newest_connections_of_stranger_beyond_limit_end(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_connections_per_stranger=3))
    peers = Peers(probe, authority, stack)
    context = peers.context(STRANGER)
    first = await peers.open(context, 3)
    await peers.seen(3)
    for _ in range(5):
        await peers.refused(context)
    await peers.ended("caller_limit", 5)
    assert all(await alive(first))
    # A caller with a role isn't bound by it.
    assert all(await alive(await peers.open(peers.context("app"), 8)))


async def test_connections_of_all_strangers_together_are_limited(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_connections_of_strangers=3))
    peers = Peers(probe, authority, stack)
    names = [x509.UniformResourceIdentifier(f"spiffe://authsvc.test/s{n}") for n in range(3)]
    contexts = [peers.context_of(authority.issue(name)) for name in names]
    greedy = await peers.open(contexts[0], 2)
    other = await peers.open(contexts[1])
    await peers.seen(3)
    # Whoever has most gives way to a newcomer.
    newcomer = await peers.open(contexts[2])
    await peers.ended("strangers_limit", 1)
    assert await alive([*greedy, *other, *newcomer]) == [True, False, True, True]
    assert all(await alive(await peers.open(peers.context("app"), 4)))


async def test_certificates_without_identity_are_counted_apart(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_connections_per_stranger=1))
    peers = Peers(probe, authority, stack)
    names = [x509.UniformResourceIdentifier(f"spiffe://authsvc.test/{n}") for n in range(2)]
    flawed = [authority.issue(*names) for _ in range(2)]
    first, second = [(await peers.open(peers.context_of(certificate)))[0] for certificate in flawed]
    await peers.seen(2)
    await peers.refused(peers.context_of(flawed[0]))
    await peers.ended("caller_limit", 1)
    assert all(await alive([first, second]))


async def test_connections_of_caller_are_limited(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_connections_per_caller=2))
    peers = Peers(probe, authority, stack)
    first = await peers.open(peers.context("app"), 2)
    for connection in first:
        await call(connection, _VALIDATE)
    await peers.seen(2)
    await peers.refused(peers.context("app"))
    await peers.ended("caller_limit", 1)
    assert all(await alive([*first, *await peers.open(peers.context("edge"))]))


async def test_connections_of_strangers_in_network_are_limited(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_new_connections_per_network=3))
    peers = Peers(probe, authority, stack)
    opened = []
    for number, caller in enumerate((STRANGER, STRANGER, "another"), start=1):
        opened += await peers.open(peers.context(caller))
        await peers.seen(number)
    opened += await peers.open(peers.context("third"))
    # The newest of the stranger that has most.
    await peers.ended("network_limit", 1)
    assert await alive(opened) == [True, False, True, True]


async def test_callers_with_role_are_not_bound_by_their_network(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_new_connections_per_network=2))
    peers = Peers(probe, authority, stack)
    for caller in ("app", "edge", "issuer", "admin"):
        (connection,) = await peers.open(peers.context(caller))
        assert await answers(connection)
    await peers.seen(4)
    assert ended(probe, "network_limit") == 0


async def test_handshakes_of_network_are_limited(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_new_connections_per_network=2))
    for _ in range(5):
        stack.enter_context(socket.create_connection(("127.0.0.1", probe.server.port)))
    await Peers(probe, authority, stack).ended("network_limit", 3)


@pytest.mark.parametrize("neighbour", ["127.0.0.1", "127.0.0.2"])
async def test_handshakes_that_are_never_completed_leave_slow_ones_to_others(
    neighbour: str, start_probe: StartProbe, settings: Settings, stack: AsyncExitStack
) -> None:
    probe = await start_probe(limited(settings, max_new_connections_per_network=3))
    address = ("127.0.0.1", probe.server.port)
    opened = [socket.create_connection(address) for _ in range(3)]
    for each in opened:
        stack.callback(each.close)
    await Peers(probe, probe.clients.authority, stack).seen(3)
    slow = socket.create_connection(address, source_address=(neighbour, 0))
    stack.callback(slow.close)
    await Peers(probe, probe.clients.authority, stack).ended("network_limit", 1)
    slow.setblocking(False)
    with pytest.raises(BlockingIOError):  # it is open, and nothing was sent
        slow.recv(1)


async def test_strangers_without_permitted_call_keep_one_connection_each(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    timeout = timedelta(milliseconds=200)
    probe = await start_probe(limited(settings, first_call_timeout=timeout))
    peers = Peers(probe, authority, stack)
    patient = await peers.open(peers.context("app"), 3)
    strange = await peers.open(peers.context(STRANGER))
    await peers.seen(4)
    strange += await peers.open(peers.context(STRANGER), 3)
    for connection in strange:
        # Neither a health check nor a refused call counts.
        await call(connection, _CHECK)
    await peers.ended("no_call", 3)
    # Which was the oldest is known; callers with a role may wait, as the server is not crowded.
    assert await alive([*strange, *patient]) == [True, False, False, False, True, True, True]


async def test_callers_without_call_end_when_server_is_crowded(
    start_probe: StartProbe, settings: Settings, authority: Authority, stack: AsyncExitStack
) -> None:
    changed = limited(settings, first_call_timeout=timedelta(milliseconds=200), max_connections=6)
    probe = await start_probe(changed)
    peers = Peers(probe, authority, stack)
    context = peers.context("app")
    (used,) = await peers.open(context)
    await call(used, _VALIDATE)
    waiting = await peers.open(context, 4)
    # Three are left then, which is no crowd.
    await peers.ended("no_call", 2)
    assert sum(await alive(waiting)) <= 2
    assert await answers(used)


async def flood(connection: Connection, size: int) -> None:
    """Send header references without acknowledging the server's settings."""
    await connection.send(HEADERS, 0, 1, _HEADER_REFERENCE)
    for _ in range(size // 16_000):
        await connection.send(CONTINUATION, 0, 1, 16_000 * _HEADER_REFERENCE)


async def test_flood_of_stranger_ends_its_connections(
    probe: ProbeServer, authority: Authority, stack: AsyncExitStack
) -> None:
    peers = Peers(probe, authority, stack)
    context = peers.context(STRANGER)
    (quiet, loud) = await peers.open(context, 2)
    with logs.caught() as log:
        with suppress(OSError):  # it ends while it sends
            await flood(loud, 1_600_000)
        await peers.ended("flood", 2)
        assert not await answers(quiet)
        # For the next minute, the caller is refused as soon as its handshake has ended.
        await peers.refused(context)
        await peers.ended("flood", 3)
    assert '"event":"connections_ended"' in log.getvalue()
    assert identity_of(STRANGER) in log.getvalue()
    assert await outcome(probe.login()) == "OK"


async def test_callers_with_role_may_send_as_much_as_they_want(
    probe: ProbeServer, authority: Authority, stack: AsyncExitStack
) -> None:
    for _ in range(5):
        assert await outcome(probe.login(email="x" * 60_000)) == "OK"
    # A stranger that is given a role while it is connected is one of them.
    peers = Peers(probe, authority, stack)
    (connection,) = await peers.open(peers.context(STRANGER))
    assert await answers(connection)
    probe.server.replace_callers(
        [
            CallerSettings(identity=identity_of(name), roles=frozenset({Role.APP, Role.EDGE}))
            for name in (STRANGER, "app")
        ]
    )
    await call(connection, _VALIDATE)
    await flood(connection, 320_000)
    assert await outcome(probe.login()) == "OK"
    assert ended(probe, "flood") == 0


class OneConnection(Sockets):
    """A server's only connection; a test says how much it has received."""

    def __init__(self, certificate: bytes) -> None:
        super().__init__(server_id=0, port=0)
        self._certificates = [("ipv4:192.0.2.1:443", certificate)]
        self.bytes = 0
        self.is_open = True

    def connections(self) -> list[Socket]:
        return [Socket(0, (0, 0), "ipv4:192.0.2.1:443")]

    def certificates(self) -> Iterator[tuple[str, bytes]]:
        yield from self._certificates
        self._certificates.clear()

    def received(self, connection: Socket) -> int:  # noqa: ARG002 - there is only one
        return self.bytes

    def end(self, connection: Socket) -> bool:  # noqa: ARG002
        self.is_open = False
        return True


@pytest.mark.parametrize("role", [None, Role.APP])
def test_suspect_with_a_new_role_is_spared_before_the_next_full_look(
    role: Role | None, settings: Settings, clock: FakeClock, authority: Authority
) -> None:
    callers = Callers((), clock)
    connections = Connections(settings.grpc, callers)
    certificate = authority.caller(identity_of(STRANGER)).certificate
    connections._sockets = sockets = OneConnection(certificate)
    connections._look(0.0, complete=True)
    if role:
        callers.replace([CallerSettings(identity=identity_of(STRANGER), roles={role})])
    sockets.bytes = 1_000_000
    connections._look(0.01, complete=False)
    assert sockets.is_open == bool(role)


async def test_calls_over_ipv6_are_recognized(start_probe: StartProbe, settings: Settings) -> None:
    changed = limited(settings, address="[::1]:0", max_new_connections_per_network=1)
    probe = await start_probe(changed)
    channels = [probe.clients.open_at(f"[::1]:{probe.server.port}") for _ in range(3)]
    for _ in range(2):
        for channel in channels:
            assert await outcome(AuthServiceStub(channel).Login(pb.LoginRequest())) == "OK"
    assert ended(probe, "network_limit") == 0
