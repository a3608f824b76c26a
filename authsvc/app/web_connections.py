"""Owns the connections of the HTTP port: how many there may be, of whom, and their TLS."""

import asyncio
import os
import ssl
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import IO, cast

import structlog

from authsvc.config import HttpSettings, TlsSettings
from authsvc.errors import ServerError
from authsvc.rpc.tls_material import TlsMaterial, check_server

log = structlog.get_logger("authsvc.web")

_HANDSHAKE_SECONDS = 5.0
# What TLS 1.3 allows anyway: authenticated encryption with forward secrecy.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class WebTls:
    """The certificate of the HTTP port, valid from `issue_time` to `expire_time`.

    Clients may show one, too. `problem` says why the files can't be used and earlier ones are
    served, or is "".

    Raises:
        ServerError: On construction, the files are invalid; the message says why.
    """

    context: ssl.SSLContext
    issue_time: datetime
    expire_time: datetime

    def __init__(self, settings: TlsSettings) -> None:
        self._files = (settings.certificate_file, settings.key_file, settings.client_ca_file)
        self._newest = settings.min_version == "1.3"
        self.problem = ""
        self._load(_read(self._files))

    async def reload(self) -> None:
        """Use the files for new connections if they have changed and are valid."""
        try:
            contents = await asyncio.to_thread(_read, self._files)
            # If they are being replaced right now, they will be complete the next time.
            if contents != self._contents and contents == await asyncio.to_thread(
                _read, self._files
            ):
                self._load(contents)
                log.info("certificates_reloaded")
            self.problem = ""
        except ServerError as error:
            if self.problem != str(error):
                log.error("certificates_not_reloaded", problem=str(error))  # noqa: TRY400 - a traceback adds nothing
            self.problem = str(error)

    def _load(self, contents: list[bytes]) -> None:
        material = check_server(self._files, contents)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if self._newest else ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=material.authorities_pem.decode())
        load_key(context, material)
        self.context, self._contents = context, contents
        self.issue_time = material.leaf.not_valid_before_utc
        self.expire_time = material.leaf.not_valid_after_utc


def load_key(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """Load a certificate and its key, which Python's ssl can read only from a file."""
    with _unnamed_file() as file:
        file.write(material.chain_pem + material.key_pem)
        file.seek(0)
        context.load_cert_chain(f"/dev/fd/{file.fileno()}")


def _unnamed_file() -> IO[bytes]:
    """Return a file that only this process can open; in memory where there is such a thing."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tls"), "w+b")
    return tempfile.TemporaryFile()


def _read(files: tuple[Path, ...]) -> list[bytes]:
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise ServerError(f"{error.filename} can't be read: {error.strerror}") from None


class WebConnections:
    """Accepts connections; when there are too many, a new one replaces an old one.

    Nobody is refused, lest anybody shut probes out: of a network that has its limit the oldest
    ends, and if all places are taken, the oldest of the network that has most. HTTP clients open
    another when they need it.
    """

    def __init__(
        self, settings: HttpSettings, serve: Callable[[], asyncio.Protocol], tls: WebTls | None
    ) -> None:
        self._limit = settings.max_connections
        self._limit_per_network = settings.max_connections_per_network
        self._serve = serve
        self._tls = tls
        # In the order in which they were opened.
        self._networks: dict[asyncio.Transport, str] = {}
        self._handshakes: set[asyncio.Task[None]] = set()

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return _Arrival(self._admit)

    def _admit(self, transport: asyncio.Transport) -> None:
        self._make_room(network := _network(transport))
        self._networks[transport] = network
        if self._tls is None:
            _hand_over(transport, self._serve(), b"")
        else:
            task = asyncio.get_running_loop().create_task(self._shake_hands(transport, self._tls))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _make_room(self, network: str) -> None:
        for transport in list(self._networks):
            if transport.is_closing():
                del self._networks[transport]
        held = Counter(self._networks.values())
        if held[network] >= self._limit_per_network:
            self._end_oldest(network)
        elif len(self._networks) >= self._limit:
            self._end_oldest(max(held, key=held.__getitem__))

    def _end_oldest(self, network: str) -> None:
        oldest = next(found for found, whose in self._networks.items() if whose == network)
        del self._networks[oldest]
        oldest.abort()

    async def _shake_hands(self, transport: asyncio.Transport, tls: WebTls) -> None:
        early = _Early()
        with suppress(OSError):  # the handshake failed, as anybody can make it
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                early,
                tls.context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
            if encrypted is not None and not encrypted.is_closing():
                _hand_over(encrypted, self._serve(), early.received)


class _Arrival(asyncio.Protocol):
    """Passes a new connection on."""

    def __init__(self, admit: Callable[[asyncio.Transport], None]) -> None:
        self._admit = admit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the connection on."""
        self._admit(cast("asyncio.Transport", transport))


class _Early(asyncio.Protocol):
    """Keeps what a client sends along with the last message of its handshake."""

    received = b""

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.received += data


def _hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol, received: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if received:
        protocol.data_received(received)


def _network(transport: asyncio.Transport) -> str:
    """Return the network of a connection: an address of IPv4, or the /64 of one of IPv6."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return ""
    address = ip_address(str(peer[0]).partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return str(address)
