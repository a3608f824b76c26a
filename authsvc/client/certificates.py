"""Owns the client's certificate, its key and the authority it trusts: read from files, reread."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

_log = logging.getLogger("authsvc.client")
# What tells versions of a file apart: of Kubernetes, a new one is another file behind a link.
_Version = tuple[int, int, int]


class CertificateError(Exception):
    """The files can't be used; the message says which and why, and holds nothing of a key."""


class Certificates:
    """The files of a client's mutual TLS.

    Raises:
        CertificateError: They can't be used.
    """

    def __init__(
        self,
        *,
        ca: str | PathLike[str],
        cert: str | PathLike[str],
        key: str | PathLike[str],
        on_error: Callable[[CertificateError], None] | None = None,
    ) -> None:
        self._paths = (Path(ca), Path(cert), Path(key))
        self._on_error = on_error
        self._reported = ""
        self._versions = self._look()
        self._contents = self._read()
        _check(self._paths, self._contents)

    def credentials(self) -> tuple[grpc.ChannelCredentials, bytes]:
        """Return credentials with what the files held when they were last good, and the chain."""
        ca, cert, key = self._contents
        return grpc.ssl_channel_credentials(ca, key, cert), cert

    def reload(self) -> bool:
        """Read the files again if they have changed; return whether there are new credentials.

        Files that can't be used are reported once, and what they held before stays.
        """
        try:
            versions = self._look()
            if versions == self._versions:
                return False
            contents = self._read()
            _check(self._paths, contents)
        except CertificateError as error:
            self._report(error)
            return False
        # Those from before the files were read: if they changed since, the next look sees it.
        self._versions, self._reported = versions, ""
        is_new, self._contents = contents != self._contents, contents
        return is_new

    def _report(self, error: CertificateError) -> None:
        if str(error) == self._reported:
            return
        self._reported = str(error)
        _log.warning("The certificate can't be renewed, the earlier one stays in use: %s", error)
        if self._on_error is not None:
            self._on_error(error)

    def _look(self) -> list[_Version]:
        versions = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError as error:
                raise CertificateError(f"{path}: {error.strerror}") from None
            versions.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return versions

    def _read(self) -> list[bytes]:
        contents = []
        for path in self._paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise CertificateError(f"{path}: {error.strerror}") from None
        return contents


def _check(paths: tuple[Path, Path, Path], contents: list[bytes]) -> None:
    """Raise CertificateError unless a handshake with these can succeed."""
    ca_path, cert_path, key_path = paths
    ca, cert, key = contents
    _parsed(ca_path, ca)
    leaf = _parsed(cert_path, cert)
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What the library says could show some of the key.
        raise CertificateError(f"{key_path}: not a private key in PEM without a password") from None
    ours, theirs = (
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for public in (private.public_key(), leaf.public_key())
    )
    if ours != theirs:
        raise CertificateError(f"{key_path}: not the key of {cert_path}")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise CertificateError(
            f"{cert_path}: expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )


def _parsed(path: Path, content: bytes) -> x509.Certificate:
    """Return the first certificate of a file."""
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        raise CertificateError(f"{path}: not a certificate in PEM") from None
