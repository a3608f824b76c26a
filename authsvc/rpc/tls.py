"""Owns the server's credentials: reads them from their files, checks them, follows changes."""

from datetime import UTC, datetime
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authsvc.app.addresses import ServerError
from authsvc.config import TlsSettings

_Stamp = tuple[tuple[int, int, int], ...]

log = structlog.get_logger("authsvc.tls")


class ServerCertificate:
    """The certificate, its key and the authorities of clients, as the files say now.

    gRPC asks at each handshake. Files that can't be used are logged once, and what was in use
    stays in use; connections that are open keep what they were opened with.

    Raises:
        ServerError: At first, the files can't be used; the message says why.
    """

    expire_time: datetime

    def __init__(self, settings: TlsSettings) -> None:
        self._files = (settings.certificate_file, settings.key_file, settings.client_ca_file)
        self._seen = _stamp(self._files)
        self._initial = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that demand a client certificate and follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial,
            self.changed,  # type: ignore[arg-type]  # None means unchanged, which stubs leave out
            require_client_authentication=True,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files say, if they were changed and can be used, else None."""
        try:
            stamp = _stamp(self._files)
            if stamp == self._seen:
                return None
            loaded = self._load()
            if _stamp(self._files) != stamp:
                # They are being replaced just now: the next handshake looks again.
                return None
        except ServerError as error:
            if stamp != self._seen:
                log.error("certificates_not_reloaded", problem=str(error))  # noqa: TRY400 - says it all
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
            raise ServerError(f"{certificate_file} holds no certificate: {error}") from None
        try:
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError):
            raise ServerError(f"{key_file} holds no unencrypted private key") from None
        try:
            x509.load_pem_x509_certificates(authorities_pem)
        except ValueError as error:
            raise ServerError(f"{authorities_file} holds no certificate: {error}") from None
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
        found = [file.stat() for file in files]
    except OSError as error:
        raise ServerError(f"{error.filename} can't be read: {error.strerror}") from None
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)
