"""An HTTP proxy on this machine: tunnels by CONNECT, and requests with whole addresses.

It alone resolves the names in `hosts`, so what reaches them has gone through it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_HEAD = 65_536


class ConnectProxy:
    """The proxy; `refusal` answers every request, `heads` and `sent` are what it was sent.

    `sent` is everything that clients sent into tunnels, as the proxy sees it.
    """

    def __init__(self) -> None:
        self.address = ""
        self.hosts: dict[str, int] = {}
        self.refusal = b""
        self.silent = False
        self.heads: list[str] = []
        self.sent = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def asked(self) -> list[str]:
        """The method and the target of every request."""
        return [" ".join(head.split(" ")[:2]) for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self.silent:
            await asyncio.Event().wait()
        if self.refusal:
            writer.write(self.refusal)
            await writer.drain()
            return
        method, target, _ = self.heads[-1].split(" ", 2)
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        assert url.hostname
        host = "127.0.0.1" if url.hostname in self.hosts else url.hostname
        port = self.hosts.get(url.hostname, url.port or 443)
        server_reader, server_writer = await asyncio.open_connection(host, port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            server_writer.write(head.replace(f"{url.scheme}://{url.netloc}".encode(), b"", 1))
        try:
            await asyncio.gather(
                self._relay(reader, server_writer, self.sent),
                self._relay(server_reader, writer, bytearray()),
            )
        finally:
            server_writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray
    ) -> None:
        while data := await reader.read(_HEAD):
            seen += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def stop(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxying() -> AsyncIterator[ConnectProxy]:
    """Let a proxy listen on its own port."""
    proxy = ConnectProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
