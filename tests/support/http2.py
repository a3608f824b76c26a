"""A hand-made HTTP/2 client, for what gRPC's own client is too well-behaved to do."""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.certificates import Certificate

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4
CANCEL, ENHANCE_YOUR_CALM = 8, 11
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Frame:
    """One frame (RFC 9113, section 4.1)."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def error(self) -> int:
        """The error code of a GOAWAY."""
        assert self.kind == GOAWAY
        return int.from_bytes(self.payload[4:8])


def tls_context(
    authority: bytes, caller: Certificate | None, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Return the TLS of a client, of one version only if given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode())
    context.set_alpn_protocols(["h2"])
    if caller is not None:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(caller.certificate + caller.key)
            context.load_cert_chain(file.name)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Connection:
    """One connection to a server; `frame` reads, `send` writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, context: ssl.SSLContext) -> AsyncIterator[Self]:
        """Connect and send the preface."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        connection = cls(reader, writer)
        writer.write(_PREFACE)
        await connection.send(SETTINGS)
        try:
            yield connection
        finally:
            # gRPC sends no close_notify, for which a graceful close would wait.
            writer.transport.abort()

    @property
    def tls(self) -> ssl.SSLObject:
        """The result of the handshake."""
        found = self._writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    @property
    def local(self) -> str:
        """This end of the connection, as the server's gRPC writes its peer."""
        host, port = self._writer.get_extra_info("sockname")[:2]
        return f"ipv4:{host}:{port}"

    async def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        """Write a frame."""
        header = len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4)
        self._writer.write(header + payload)
        await self._writer.drain()

    async def frame(self) -> Frame | None:
        """Return the next frame, or None when the server has closed the connection."""
        try:
            header = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(header[:3]))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return Frame(header[3], header[4], int.from_bytes(header[5:9]), payload)

    async def until(self, kind: int) -> Frame | None:
        """Return the next frame of a kind, or None if the server closes first."""
        while frame := await self.frame():
            if frame.kind == kind:
                return frame
        return None

    async def start(self, method: str, stream: int, message: bytes = b"") -> None:
        """Start a call, and send bytes of its request without ending it."""
        await self.send(HEADERS, END_HEADERS, stream, request_headers(method, {}))
        if message:
            await self.send(DATA, 0, stream, message)

    async def begin(
        self, method: str, message: bytes = b"", stream: int = 1, **metadata: str
    ) -> None:
        """Send a whole unary call."""
        await self.send(HEADERS, END_HEADERS, stream, request_headers(method, metadata))
        await self.send(DATA, END_STREAM, stream, _framed(message))

    async def call(
        self, method: str, message: bytes = b"", stream: int = 1, **metadata: str
    ) -> bytes:
        """Make a unary call; return everything that came back, as on the wire."""
        await self.begin(method, message, stream, **metadata)
        received = b""
        while frame := await self.frame():
            if frame.stream == stream:
                received += frame.payload
                if frame.flags & END_STREAM:
                    break
        return received

    async def open_and_reset(self, method: str, stream: int) -> None:
        """Start a call with an empty message, and cancel it at once."""
        await self.send(HEADERS, END_HEADERS, stream, request_headers(method, {}))
        await self.send(DATA, END_STREAM, stream, _framed(b""))
        await self.send(RST_STREAM, 0, stream, CANCEL.to_bytes(4))


def request_headers(method: str, metadata: Mapping[str, str]) -> bytes:
    """Return the header block of a call."""
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in metadata.items()},
    }
    return b"".join(map(_literal, headers.keys(), headers.values()))


def _framed(message: bytes) -> bytes:
    """Return a message as gRPC sends it: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4) + message


def _literal(name: str, value: str) -> bytes:
    """Return a header as a literal that is not indexed (RFC 7541, section 6.2.2)."""
    texts = (name.encode(), value.encode())
    assert max(map(len, texts)) < 127
    return b"\0" + b"".join(bytes([len(text)]) + text for text in texts)
