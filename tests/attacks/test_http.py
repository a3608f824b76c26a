"""The HTTP port, which is open to anybody: idle connections don't shut others out."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from authsvc.config import Settings
from tests.support.probe import with_changes
from tests.support.service import Service, StartService

_LIMIT = 8
_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"


async def _open(
    stack: AsyncExitStack, port: int, source: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    stack.push_async_callback(_close, writer)
    return reader, writer


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _get(stack: AsyncExitStack, port: int) -> bytes:
    reader, writer = await _open(stack, port)
    writer.write(_REQUEST + b"\r\n")
    async with asyncio.timeout(30):
        return await reader.readline()


@pytest.mark.parametrize("sent", [b"", _REQUEST, _REQUEST + b"\r\n" + _REQUEST])
async def test_slow_clients_are_evicted_for_others(
    sent: bytes, start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(_limited(live_settings, _LIMIT))
    port = service.app.http_port
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(3 * _LIMIT):
            reader, writer = await _open(stack, port)
            writer.write(sent)
            readers.append(reader)
            assert await _get(stack, port) == b"HTTP/1.1 200 OK\r\n"
        for reader in readers[:_LIMIT]:
            await _ended(reader)


async def test_many_connections_of_one_network_leave_those_of_others(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(_limited(live_settings, _LIMIT // 2))
    port = service.app.http_port
    async with AsyncExitStack() as stack:
        reader, writer = await _open(stack, port, "127.0.0.2")
        readers = [(await _open(stack, port))[0] for _ in range(3 * _LIMIT)]
        for ended in readers[: 2 * _LIMIT]:
            await _ended(ended)
        writer.write(_REQUEST + b"\r\n")
        async with asyncio.timeout(30):
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_newcomer_replaces_connection_of_the_greediest_network(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(_limited(live_settings, _LIMIT))
    port = service.app.http_port
    async with AsyncExitStack() as stack:
        modest, writer = await _open(stack, port, "127.0.0.2")
        readers = [(await _open(stack, port, "127.0.0.3"))[0] for _ in range(_LIMIT - 1)]
        assert await _get(stack, port) == b"HTTP/1.1 200 OK\r\n"
        await _ended(readers[0])
        writer.write(_REQUEST + b"\r\n")
        async with asyncio.timeout(30):
            assert await modest.readline() == b"HTTP/1.1 200 OK\r\n"


def _limited(settings: Settings, each: int) -> Settings:
    limits = {"max_connections": _LIMIT, "max_connections_per_network": each}
    return with_changes(settings, "http", **limits)


async def _ended(reader: asyncio.StreamReader) -> None:
    """Wait until the server has ended a connection."""
    async with asyncio.timeout(30):
        with suppress(ConnectionError):
            await reader.read()


async def test_garbage_request_logs_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        reader, writer = await _open(stack, service.app.http_port)
        writer.write(b"GET /\x00 HTTP/9.9\r\nno header\r\n\r\n")
        async with asyncio.timeout(30):
            assert b" 400 " in await reader.readline()
    assert caplog.records == []


async def test_responses_do_not_reveal_server_software(service: Service) -> None:
    async with AsyncExitStack() as stack:
        reader, writer = await _open(stack, service.app.http_port)
        writer.write(_REQUEST + b"\r\n")
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
    assert b"Server: authsvc\r\n" in head
    assert b"Python" not in head
