"""Connections as the kernel and gRPC know them, on a real server."""

import ssl
from dataclasses import replace

import pytest

from authsvc.rpc.sockets import Socket, Sockets, newest_server_id
from tests.support.certificates import Authority
from tests.support.http2 import PING, Connection, tls_context
from tests.support.probe import ProbeServer, identity_of


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return tls_context(authority.certificate, authority.caller(identity_of("app")))


@pytest.fixture
def sockets(probe: ProbeServer) -> Sockets:
    return Sockets(newest_server_id(), probe.server.port)


async def ping(connection: Connection) -> bool:
    """Return whether the server still answers over a connection."""
    try:
        await connection.send(PING, payload=bytes(8))
    except OSError:
        return False
    return await connection.until(PING) is not None


def socket_of(sockets: Sockets, connection: Connection) -> Socket:
    (found,) = (one for one in sockets.connections() if one.peer == connection.local)
    return found


async def test_end_resets_one_connection_only(
    probe: ProbeServer, sockets: Sockets, context: ssl.SSLContext
) -> None:
    port = probe.server.port
    async with Connection.open(port, context) as one, Connection.open(port, context) as other:
        assert await ping(one)
        assert sockets.end(socket_of(sockets, one))
        assert not await ping(one)
        assert await ping(other)


async def test_end_leaves_connection_that_got_the_descriptor_later(
    probe: ProbeServer, sockets: Sockets, context: ssl.SSLContext
) -> None:
    port = probe.server.port
    async with Connection.open(port, context) as one, Connection.open(port, context) as other:
        assert await ping(one)
        assert await ping(other)
        ended, later = socket_of(sockets, one), socket_of(sockets, other)
        confused = replace(ended, descriptor=later.descriptor)
        assert not sockets.end(confused)
        assert sockets.received(confused) == 0
        assert await ping(other)


async def test_received_bytes_are_measured(
    probe: ProbeServer, sockets: Sockets, context: ssl.SSLContext
) -> None:
    async with Connection.open(probe.server.port, context) as connection:
        assert await ping(connection)
        before = sockets.received(socket_of(sockets, connection))
        assert await ping(connection)
        # A frame of 17 bytes, and what TLS adds to it.
        assert 17 <= sockets.received(socket_of(sockets, connection)) - before < 100


async def test_certificate_of_each_connection_is_reported_once(
    probe: ProbeServer, sockets: Sockets, context: ssl.SSLContext, authority: Authority
) -> None:
    other = authority.caller(identity_of("edge"))
    async with Connection.open(probe.server.port, context) as first:
        assert await ping(first)
        assert first.local in dict(sockets.certificates())
        async with Connection.open(
            probe.server.port, tls_context(authority.certificate, other)
        ) as second:
            assert await ping(second)
            assert dict(sockets.certificates()) == {second.local: other.certificate}


def test_socket_that_listens_is_no_connection(sockets: Sockets) -> None:
    assert sockets.connections() == []
