"""Owns the checks of certificates: that they can be served, and that callers accept them.

What callers would say is found out as they do: by a handshake, in memory.
"""

import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.app.addresses import split_address, unix_path
from authsvc.app.web_connections import load_key
from authsvc.cli.config_check import check_certificates
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, skipped, warning
from authsvc.config import Settings, TlsSettings
from authsvc.errors import ServerError
from authsvc.rpc.pem import PemError, read_certificates
from authsvc.rpc.tls import ServerCertificate
from authsvc.rpc.tls_material import TlsMaterial

# What is left when somebody should have noticed: those that renew, do so after two thirds.
_LEFT = 4
_MOST_LEFT = timedelta(days=21)
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})  # X509_V_ERR_…
_RENEW = "renew it now: what renews certificates has not, or nothing does"


async def certificates(deployment: Deployment) -> Sequence[Finding]:
    """Check that the ports can be started with their certificates, keys and authorities."""
    remedy = "replace the file; the running service takes up changed files by itself"
    return [
        error(f"{each.name}: {each.problem}", remedy)
        if each.problem
        else ok(f"{each.name}: {each.detail}")
        for each in check_certificates(deployment.settings)
    ]


async def expiry(deployment: Deployment) -> Sequence[Finding]:
    """Check how long the certificates and the authorities in the files are valid."""
    now = datetime.now(UTC)
    found = [finding for path in _files(deployment.settings) for finding in _expiries(path, now)]
    return found or [skipped("no file with certificates can be read")]


def _files(settings: Settings) -> Sequence[Path]:
    tls = [each for each in (settings.tls, settings.http.tls) if each is not None]
    files = [file for each in tls for file in (each.certificate_file, each.client_ca_file)]
    return list(dict.fromkeys(files))


def _expiries(path: Path, now: datetime) -> Iterator[Finding]:
    try:
        found = read_certificates(path.read_bytes())
    except (OSError, PemError):
        # tls.certificates reports it.
        return
    for each in found:
        name = f"{path}: {each.subject.rfc4514_string() or 'the certificate'}"
        end = each.not_valid_after_utc
        if end <= now:
            yield error(f"{name} has expired on {end:%Y-%m-%d %H:%M} UTC", _RENEW)
        elif each.not_valid_before_utc > now:
            yield error(
                f"{name} is not valid before {each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
                "wait until then, or compare the clocks of this machine and of the issuer",
            )
        elif end - now < min((end - each.not_valid_before_utc) / _LEFT, _MOST_LEFT):
            yield warning(f"{name} expires in {_left(end - now)}", _RENEW)
        else:
            yield ok(f"{name} expires in {_left(end - now)}")


def _left(time: timedelta) -> str:
    if time >= timedelta(days=2):
        return f"{time.days} days"
    return f"{time.total_seconds() / 3600:.1f} hours"


async def chain(deployment: Deployment) -> Sequence[Finding]:
    """Check that callers trust the certificate, by the authorities that they have."""
    material = _material(deployment.settings.tls)
    bundle = deployment.options.ca
    problem = _handshake(material, _bundle(bundle or deployment.settings.tls.client_ca_file))
    if problem is None:
        return [ok(f"authorities in {bundle or 'tls.client_ca_file'} vouch for it")]
    if bundle is None and problem.verify_code in _UNKNOWN_ISSUER:
        return [
            skipped(
                "authorities other than those in tls.client_ca_file issued the certificate: name"
                " the file that callers trust by --ca"
            )
        ]
    return [
        error(
            f"a caller that trusts {bundle or 'tls.client_ca_file'} refuses the certificate:"
            f" {problem.verify_message}",
            "put the whole chain into tls.certificate_file, the server's own first and without"
            " the root; or give callers the authority that signs now, beside the old one",
        )
    ]


async def names(deployment: Deployment) -> Sequence[Finding]:
    """Check that the certificate has the names by which callers reach the service."""
    material = _material(deployment.settings.tls)
    listed = _names(material.leaf)
    if not listed:
        return [
            error(
                "the certificate has no alternative name that is a host or an address, which is"
                " all that callers look at",
                "issue it with the DNS names that callers use (subjectAltName)",
            )
        ]
    hosts = [host_of(target) for target in deployment.options.targets]
    wrong = [host for host in hosts if host and not _has_name(material, host)]
    shown = ", ".join(listed)
    found = [
        error(
            f"callers that use {host} refuse the certificate, which is for {shown}",
            "issue it with this name, too, or let callers use one of those that it has",
        )
        for host in wrong
    ]
    if not hosts:
        return [ok(f"it is for {shown}; --target ADDRESS compares it with what callers use")]
    return found or [ok(f"it is for {shown}")]


async def authorities(deployment: Deployment) -> Sequence[Finding]:
    """Check that the authorities of callers are such, and that none hides another."""
    path = deployment.settings.tls.client_ca_file
    try:
        found = read_certificates(path.read_bytes())
    except (OSError, PemError):
        raise Skip("tls.client_ca_file can't be read") from None
    findings = [
        warning(
            f"{path}: {each.subject.rfc4514_string()} is not an authority, so it signs nobody",
            "remove it from the file",
        )
        for each in found
        if not _is_authority(each)
    ]
    subjects = [each.subject for each in found]
    findings += [
        warning(
            f"{path} has {subjects.count(subject)} certificates named {subject.rfc4514_string()}:"
            " gRPC tries one of them alone, so callers of the others are refused",
            "give a new authority a name of its own; remove the old one once nobody uses it",
        )
        for subject in dict.fromkeys(subjects)
        if subjects.count(subject) > 1 and _keys_differ(found, subject)
    ]
    return findings or [ok(f"{len(found)} in {path}")]


def _keys_differ(found: Sequence[x509.Certificate], subject: x509.Name) -> bool:
    same = [each for each in found if each.subject == subject]
    return any(each.public_key() != same[0].public_key() for each in same)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _material(settings: TlsSettings) -> TlsMaterial:
    try:
        return ServerCertificate(settings).served
    except ServerError:
        raise Skip("the certificate can't be served: see tls.certificates") from None


def _bundle(path: Path) -> str:
    try:
        found = read_certificates(path.read_bytes())
    except OSError as failure:
        raise ServerError(f"{path} can't be read: {failure.strerror}") from None
    except PemError as failure:
        raise ServerError(f"{path} {failure}") from None
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in found)


def _has_name(material: TlsMaterial, host: str) -> bool:
    """Return whether the certificate is for a host, whoever issued it."""
    leaf = material.leaf.public_bytes(Encoding.PEM).decode()
    return _handshake(material, leaf, host) is None


def _handshake(
    material: TlsMaterial, trusted: str, host: str = ""
) -> ssl.SSLCertVerificationError | None:
    """Return why a caller refuses the certificate in a handshake, or None if it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusted)
    # As gRPC's clients do: any certificate in the bundle is trusted, and the subject is no name.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = bool(host)
    context.hostname_checks_common_name = False
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key(serving, material)
    return shake_hands(context, serving, host)


def shake_hands(
    client: ssl.SSLContext, server: ssl.SSLContext, host: str = ""
) -> ssl.SSLCertVerificationError | None:
    """Make a handshake in memory; return why one side refuses the other's certificate, or None."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host or None),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    # Each side has two turns in TLS 1.3; a third one is for the alert of the other.
    for _ in range(3):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as refusal:
                return refusal
    return None


def _names(leaf: x509.Certificate) -> Sequence[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def host_of(target: str) -> str:
    """Return the host of an address as a gRPC client takes it; "" for a unix socket.

    Raises ServerError if it is none.
    """
    if unix_path(target) is not None:
        return ""
    return split_address(target.rpartition("/")[2])[0]
