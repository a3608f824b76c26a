"""Owns the CA of a development machine: its files, and when certificates are issued.

For production, use a real CA: anybody who can read `ca.key` can impersonate any client.
"""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authsvc.dev.issuing import Names, Pair, Usage, make_authority, make_leaf, names_of

TRUST_DOMAIN = "authsvc.dev"
ROLES = ("app", "edge", "issuer", "admin", "observer")
LIFETIME = timedelta(days=365)

_RENEW_BEFORE = timedelta(days=7)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", re.ASCII)


class CertificateError(Exception):
    """A certificate could not be issued or read; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key on disk; `made` tells whether they were just created."""

    certificate: Path
    key: Path
    names: Names
    expire_time: datetime
    made: bool


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    names: Names
    usage: Usage
    lifetime: timedelta = LIFETIME

    def paths(self, folder: Path) -> tuple[Path, Path]:
        parent = folder if self.usage.server else folder / "clients"
        return parent / f"{self.name}.crt", parent / f"{self.name}.key"


_SERVER = _Spec(
    "server",
    Names((f"spiffe://{TRUST_DOMAIN}/server",), ("localhost",), ("127.0.0.1", "::1")),
    Usage(client=False, server=True),
)
_CLIENTS = tuple(
    _Spec(role, Names((f"spiffe://{TRUST_DOMAIN}/{role}",)), Usage(client=True, server=False))
    for role in ROLES
)


def init(folder: Path) -> tuple[Issued, ...]:
    """Create the CA, the server's certificate and one client certificate for each role.

    Certificates valid for another week are kept. A certificate is replaced if it is about to
    expire, does not match its key, has other names or was issued by another CA. Other files in the
    folder are not touched.

    Returns the CA first, then the server, then the clients. Raises CertificateError.
    """
    with _locked(folder):
        authority, issued = _authority(folder)
        return issued, *(_ensure(folder, authority, spec) for spec in (_SERVER, *_CLIENTS))


def issue(
    folder: Path,
    name: str,
    *,
    uris: Iterable[str] = (),
    dns: Iterable[str] = (),
    ips: Iterable[str] = (),
    client: bool = True,
    server: bool = False,
    lifetime: timedelta = LIFETIME,
) -> tuple[Path, Path]:
    """Issue a certificate and return its path and that of its key.

    They are `folder`/`name`.crt and .key for a server, the same in `folder`/clients for others, and
    replace an earlier certificate of that name. The CA is created if there is none. The certificate
    never outlives its CA. Raises CertificateError.
    """
    names = Names(tuple(uris), tuple(dns), tuple(ips))
    spec = _Spec(name, names, Usage(client=client, server=server), lifetime)
    if not _NAME.fullmatch(name) or (server and name == "ca"):
        raise CertificateError(f"{name!r} can't be the name of a certificate's files")
    if lifetime <= timedelta(0) or not (client or server):
        raise CertificateError("a certificate needs a purpose and a positive lifetime")
    with _locked(folder):
        authority, _ = _authority(folder)
        issued = _issue(folder, authority, spec)
    return issued.certificate, issued.key


def describe(certificate: Path, key: Path, *, made: bool = False) -> Issued:
    """Return a description of the certificate in a file. Raises CertificateError."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{certificate} can't be read: {error}") from error
    return _issued((certificate, key), found, made=made)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from issuing into `folder` at the same time."""
    try:
        (folder / "clients").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CertificateError(f"{error.filename or folder}: {error.strerror}") from error


def _authority(folder: Path) -> tuple[Pair, Issued]:
    paths = folder / "ca.crt", folder / "ca.key"
    if paths[0].exists() and not paths[1].exists():
        raise CertificateError(
            f"{paths[0]} has no key beside it: remove it to have a new CA created"
        )
    pair = _load(*paths)
    if pair is not None and _is_fresh(pair.certificate):
        return pair, _issued(paths, pair.certificate, made=False)
    pair = make_authority()
    _write(*paths, pair)
    return pair, _issued(paths, pair.certificate, made=True)


def _ensure(folder: Path, authority: Pair, spec: _Spec) -> Issued:
    paths = spec.paths(folder)
    pair = _load(*paths)
    if pair is not None and _matches(pair.certificate, authority.certificate, spec):
        return _issued(paths, pair.certificate, made=False)
    return _issue(folder, authority, spec)


def _issue(folder: Path, authority: Pair, spec: _Spec) -> Issued:
    try:
        pair = make_leaf(authority, spec.name, spec.names, spec.usage, spec.lifetime)
    except ValueError as error:
        raise CertificateError(f"{spec.name} can't be issued: {error}") from error
    paths = spec.paths(folder)
    _write(*paths, pair)
    return _issued(paths, pair.certificate, made=True)


def _matches(certificate: x509.Certificate, authority: x509.Certificate, spec: _Spec) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return _is_fresh(certificate) and names_of(certificate) == spec.names


def _is_fresh(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE


def _load(certificate: Path, key: Path) -> Pair | None:
    """Return the certificate and key in the files, or None if they are not a valid pair."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    if found.public_key() != private.public_key():
        return None
    if key.stat().st_mode & 0o077:
        key.chmod(0o600)
    return Pair(found, private)


def _issued(paths: tuple[Path, Path], certificate: x509.Certificate, *, made: bool) -> Issued:
    return Issued(*paths, names_of(certificate), certificate.not_valid_after_utc, made)


def _write(certificate: Path, key: Path, pair: Pair) -> None:
    private = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _replace(key, private, mode=0o600)
    _replace(certificate, pair.certificate.public_bytes(Encoding.PEM), mode=0o644)


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file atomically, and never with a less strict mode."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
