"""What strangers send does not fill the log: the first lines of a kind, then their number."""

import asyncio
import json
import signal
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from authsvc.dev.workspace import Workspace
from tests.support.certificates import Authority, write_files
from tests.support.http2 import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Connection,
    request_headers,
    tls_context,
)
from tests.support.probe import LOGIN, STRANGER, identity_of
from tests.support.processes import Process

pytestmark = pytest.mark.slow

_CHECK = "/grpc.health.v1.Health/Check"
_TIMES = 200
_AT_ONCE = 10  # fewer than a stranger may have in progress
# Some fifty lines, for seven kinds of attack.
_MAX_BYTES = 20_000


async def test_floods_of_strangers_are_sampled_and_counted(
    workspace: Workspace, database_dsn: str, start: Callable[..., Process], authority: Authority
) -> None:
    workspace.set_database(database_dsn)
    write_files(workspace.certificates, authority.certificate, authority.server())
    files = ["-c", str(workspace.config), "--secrets", str(workspace.secrets)]
    service = start("serve", *files, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    serving = await asyncio.to_thread(
        service.wait_for, r'"serving".*"grpc":"[^"]+:(\d+)","http":"([^"]+)"'
    )
    port, http, before = int(serving[1]), serving[2], len(service.output)
    nobody = tls_context(authority.certificate, None)

    for attack in (refused, malformed, unknown_service, reset, large_headers):
        # Each by another stranger, as one that sends too much is disconnected.
        certificate = authority.caller(identity_of(f"{STRANGER}/{attack.__name__}"))
        with suppress(OSError):
            await calls(port, tls_context(authority.certificate, certificate), attack)
    for _ in range(_TIMES // 2):
        await handshake(port, nobody)
        await handshake(port, None)
        await garbage(http)

    service.send(signal.SIGTERM)
    assert await asyncio.to_thread(service.end) == 0, service.output
    written = service.output[before:]
    assert len(written) < _MAX_BYTES
    lines = [json.loads(line) for line in written.splitlines()]
    whole = sum(line.get("reason") == "FIELD_INVALID" for line in lines)
    left_out = sum(line["count"] for line in lines if line.get("outcome") == "FIELD_INVALID")
    assert whole
    assert whole + left_out == _TIMES


async def calls(
    port: int, context: ssl.SSLContext, attack: Callable[[Connection, int], Awaitable[None]]
) -> None:
    """Make calls, a few at a time; wait for those that are sure to be answered."""
    async with asyncio.timeout(120), Connection.open(port, context) as connection:
        await connection.until(SETTINGS)
        await connection.send(SETTINGS, ACK)  # until then, only 256 streams
        for first in range(1, 2 * _TIMES, 2 * _AT_ONCE):
            waiting = set(range(first, first + 2 * _AT_ONCE, 2))
            for stream in sorted(waiting):
                await attack(connection, stream)
            while attack in _ANSWERED and waiting and (frame := await connection.frame()):
                if frame.kind == RST_STREAM or (frame.kind == HEADERS and frame.flags & END_STREAM):
                    waiting.discard(frame.stream)


async def refused(connection: Connection, stream: int) -> None:
    await connection.begin(LOGIN, b"", stream)


async def malformed(connection: Connection, stream: int) -> None:
    await connection.begin(_CHECK, b"\xff", stream)


async def unknown_service(connection: Connection, stream: int) -> None:
    await connection.begin(_CHECK, b"\x0a\x01x", stream)


async def reset(connection: Connection, stream: int) -> None:
    await connection.open_and_reset(LOGIN, stream)


async def large_headers(connection: Connection, stream: int) -> None:
    many = {f"x-note-{number}": "x" * 100 for number in range(120)}
    block = request_headers(LOGIN, many)
    await connection.send(HEADERS, END_HEADERS | END_STREAM, stream, block)


_ANSWERED = (refused, malformed, unknown_service)


async def handshake(port: int, context: ssl.SSLContext | None) -> None:
    """Fail to connect: with this context, or without TLS."""
    with suppress(OSError, ssl.SSLError):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.transport.abort()


async def garbage(address: str) -> None:
    """Send the HTTP port something else."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /\x00 HTTP/9.9\r\nno header\r\n\r\n")
    await reader.read()
    writer.transport.abort()
