"""Owns the server's TLS credentials: reads them from files, checks and reloads them."""

from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authsvc.config import TlsSettings
from authsvc.errors import ServerError

_Stamp = tuple[tuple[int, int, int], ...]

log = structlog.get_logger("authsvc.tls")


class ServerCertificate:
    """The server's certificate and key and the client authorities, reloaded when files change.

    gRPC checks for changes at each handshake. Invalid files are logged once, and the previous
    credentials stay in use; open connections keep those they were opened with.

    Raises:
        ServerError: On construction, the files are invalid; the message says why.
    """

    expire_time: datetime

    def __init__(self, settings: TlsSettings) -> None:
        self._files = (settings.certificate_file, settings.key_file, settings.client_ca_file)
        self._seen = _stamp(self._files)
        self._initial = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that require a client certificate and are reloaded from the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self.changed,  # type: ignore[arg-type]  # None means unchanged, which the stubs omit
            require_client_authentication=True,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the credentials if the files have changed and are valid, otherwise None."""
        try:
            stamp = _stamp(self._files)
            if stamp == self._seen:
                return None
            loaded = self._load()
            if _stamp(self._files) != stamp:
                # They are being replaced right now: the next handshake checks again.
                return None
        except ServerError as error:
            if stamp != self._seen:
                log.error("certificates_not_reloaded", problem=str(error))  # noqa: TRY400 - a traceback adds nothing
            self._seen = stamp
            return None
        self._seen = stamp
        log.info("certificates_reloaded", expire_time=self.expire_time)
        return loaded

    def _load(self) -> grpc.ServerCertificateConfiguration:
        certificate_pem, key_pem, authorities_pem = (_read(file) for file in self._files)
        certificate_file, key_file, authorities_file = self._files
        try:
            leaf = x509.load_pem_x509_certificates(certificate_pem)[0]
        except ValueError as error:
            raise ServerError(f"{certificate_file} contains no certificate: {error}") from None
        try:
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError):
            raise ServerError(f"{key_file} contains no unencrypted private key") from None
        try:
            x509.load_pem_x509_certificates(authorities_pem)
        except ValueError as error:
            raise ServerError(f"{authorities_file} contains no certificate: {error}") from None
        if key.public_key() != leaf.public_key():
            raise ServerError(f"{key_file} is not the key of {certificate_file}")
        if leaf.not_valid_after_utc <= datetime.now(UTC):
            raise ServerError(f"{certificate_file} has expired")
        self.expire_time = leaf.not_valid_after_utc
        return grpc.ssl_server_certificate_configuration(
            [(key_pem, certificate_pem)], root_certificates=authorities_pem
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ServerError(f"{file} can't be read: {error.strerror}") from None


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        raise ServerError(f"{error.filename} can't be read: {error.strerror}") from None
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)
