"""A relay between a client and a server, mostly PostgreSQL, that can go silent, cut or pretend."""

import asyncio
import struct
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

_BACKEND_KEY_DATA = b"K\x00\x00\x00\x0c"


class Proxy:
    """Relays to the server of `dsn`; with `process_id` it reports that id for every session.

    `delay` is how many seconds everything takes on its way, in each direction.
    """

    def __init__(self, dsn: str, *, process_id: int | None = None, delay: float = 0.0) -> None:
        self._address = urlsplit(dsn)
        self._process_id = process_id
        self.delay = delay
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.dsn = ""

    def redirect(self, dsn: str) -> None:
        """Relay new connections to the server of `dsn`; those that are open stay where they are."""
        self._address = urlsplit(dsn)

    def hold(self) -> None:
        """Go silent: connections stay open, but nothing gets through."""
        self._flows.clear()

    def release(self) -> None:
        """Relay again, starting with what was held."""
        self._flows.set()

    def strand(self) -> None:
        """Go silent for good on the connections that are open; new ones are relayed."""
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """Reset all connections of clients; new ones are relayed."""
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()

    @property
    def address(self) -> str:
        """The host and port that it listens on."""
        return urlsplit(self.dsn).netloc.rpartition("@")[2]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self._address.netloc.rpartition("@")[0]
        self.dsn = f"postgresql://{login}@127.0.0.1:{port}{self._address.path}?sslmode=disable"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # Transports close in the next turn of the loop, which may be the last one.
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        self._writers.add(writer)
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await self._connect()
            self._writers.add(server_writer)
            async with asyncio.TaskGroup() as group:
                for source, sink in ((reader, server_writer), (server_reader, writer)):
                    group.create_task(self._relay(source, sink, self._flows))
        except* OSError:
            pass
        finally:
            writer.close()
            if server_writer is not None:
                server_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._address.query)
        if "host" in query:
            path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
            return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection(self._address.hostname, self._address.port or 5432)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            await flows.wait()
            await asyncio.sleep(self.delay)
            writer.write(self._disguise(data))
            await writer.drain()
        writer.close()

    def _disguise(self, data: bytes) -> bytes:
        at = data.find(_BACKEND_KEY_DATA)
        if self._process_id is None or at < 0:
            return data
        start = at + len(_BACKEND_KEY_DATA)
        return data[:start] + struct.pack("!I", self._process_id) + data[start + 4 :]
