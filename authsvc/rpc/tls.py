"""Owns the server's TLS credentials: reads them from files, checks and reloads them."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.config import TlsSettings
from authsvc.errors import ServerError
from authsvc.rpc.tls_material import TlsMaterial, check_server

log = structlog.get_logger("authsvc.tls")

Presented = Callable[[], Awaitable[bytes]]


class ServerCertificate:
    """The server's certificate and key and the client authorities, reloaded when files change.

    `served` is what the port is known to use, and `problem` says why changed files are not used, or
    is empty. Changed files are checked, then offered to gRPC, and
    count as loaded once a handshake has shown the new certificate. If they are invalid, the
    previous credentials stay in use; each problem is logged once. Open connections keep the
    credentials that they were opened with.

    Raises:
        ServerError: On construction, the files are invalid; the message says why.
    """

    served: TlsMaterial

    def __init__(self, settings: TlsSettings) -> None:
        self._files = (settings.certificate_file, settings.key_file, settings.client_ca_file)
        self._contents = _read(self._files)
        self.served = self._offered = self._taken = check_server(self._files, self._contents)
        self._refused: tuple[bytes, ...] | None = None
        self.problem = ""

    def credentials(
        self, on_handshake: Callable[[], None] = lambda: None
    ) -> grpc.ServerCredentials:
        """Return credentials that require a client certificate and follow what is offered.

        `on_handshake` is called, in some thread, when a handshake begins.
        """
        self._on_handshake = on_handshake
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._taken),
            self._take,  # type: ignore[arg-type]  # None means unchanged, which the stubs omit
            require_client_authentication=True,
        )

    async def confirm(self, presented: Presented) -> None:
        """Check that the port serves the certificate; `presented` makes a handshake with it.

        Raises:
            ServerError: It does not.
        """
        try:
            await self._compare(self.served, presented)
        except OSError as error:
            log.warning("certificate_not_confirmed", problem=str(error))

    async def reload(self, presented: Presented) -> None:
        """Reload the files if they have changed and are valid."""
        try:
            await self._reload(presented)
        except (ServerError, OSError) as error:
            if str(error) != self.problem:
                log.error("certificates_not_reloaded", problem=str(error))  # noqa: TRY400 - a traceback adds nothing
            self.problem = str(error)

    async def _reload(self, presented: Presented) -> None:
        contents = await asyncio.to_thread(_read, self._files)
        if contents == self._refused:
            return
        if contents != self._contents:
            if await asyncio.to_thread(_read, self._files) != contents:
                # They are being replaced right now.
                return
            self._offered = check_server(self._files, contents)
            try:
                await self._compare(self._offered, presented)
                self.served, self._contents = self._offered, contents
            except ServerError:
                self._refused = contents
                raise
            finally:
                self._offered = self.served
            log.info(
                "certificates_reloaded",
                serial_number=f"{self.served.leaf.serial_number:x}",
                expire_time=self.served.leaf.not_valid_after_utc,
            )
        self.problem, self._refused = "", None

    async def _compare(self, expected: TlsMaterial, presented: Presented) -> None:
        """Make a handshake; raise ServerError if it fails or shows another certificate."""
        certificate_file = self._files[0]
        try:
            found = await presented()
        except ssl.SSLEOFError:
            # The connection was closed, as if there were too many: that says nothing.
            raise
        except ssl.SSLError as error:
            raise ServerError(f"{certificate_file} fails in the handshake: {error}") from None
        if found != expected.leaf.public_bytes(Encoding.DER):
            raise ServerError(f"{certificate_file} was loaded, but another certificate is served")

    def _take(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is offered if that is new; gRPC calls this in each handshake, in a thread."""
        self._on_handshake()
        offered = self._offered
        if offered is self._taken:
            return None
        self._taken = offered
        return _configuration(offered)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key_pem, material.chain_pem)], root_certificates=material.authorities_pem
    )


def _read(files: Sequence[Path]) -> tuple[bytes, ...]:
    try:
        return tuple(file.read_bytes() for file in files)
    except OSError as error:
        raise ServerError(f"{error.filename} can't be read: {error.strerror}") from None
