"""Certificates for tests, created at run time: valid ones, and ones that must be rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from authsvc.config import TlsSettings

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2049, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def der(self) -> bytes:
        return self.parsed.public_bytes(Encoding.DER)


def key_usage(**granted: bool) -> x509.KeyUsage:
    """Return a key usage with digitalSignature and the usages `granted`."""
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**dict.fromkeys(names, False) | {"digital_signature": True} | granted)


class Authority:
    """A certificate authority."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._self_signed(FAR_AHEAD)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: x509.GeneralName,
        common_name: str = "",
        extensions: Sequence[x509.ExtensionType] = (),
        not_before: datetime = LONG_AGO,
        not_after: datetime = FAR_AHEAD,
        key: CertificateIssuerPrivateKeyTypes | None = None,
    ) -> Certificate:
        """Return a certificate with these alternative names and extensions."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(_name(common_name), key, not_before, not_after).add_extension(
            issuer, critical=False
        )
        if names:
            # Critical, as the subject is empty (RFC 5280, 4.2.1.6).
            critical = not common_name
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return Certificate(
            builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def server(
        self,
        not_after: datetime = FAR_AHEAD,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Certificate:
        """Return a certificate for a server on this machine."""
        names = (x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1")))
        return self.issue(*names, not_after=not_after, key=key, extensions=extensions)

    def renewed(self, not_after: datetime) -> bytes:
        """Return another certificate of the authority, with the same name and key."""
        return self._self_signed(not_after).public_bytes(Encoding.PEM)

    def caller(self, uri: str, not_after: datetime = FAR_AHEAD) -> Certificate:
        """Return a certificate for the calling service `uri`."""
        return self.issue(x509.UniformResourceIdentifier(uri), not_after=not_after)

    def _self_signed(self, not_after: datetime) -> x509.Certificate:
        public = self._key.public_key()
        return (
            self._builder(self._name, self._key, LONG_AGO, not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        not_before: datetime,
        not_after: datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )


def write_files(folder: Path, authority: bytes, server: Certificate) -> TlsSettings:
    """Write a server's certificate files into `folder`; return their paths."""
    contents = {"ca.crt": authority, "server.crt": server.certificate, "server.key": server.key}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return TlsSettings(
        certificate_file=folder / "server.crt",
        key_file=folder / "server.key",
        client_ca_file=folder / "ca.crt",
    )


def channel_credentials(
    authority: bytes, caller: Certificate | None = None
) -> grpc.ChannelCredentials:
    """Return a client's credentials: the authority it trusts, and its own certificate."""
    if caller is None:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(authority, caller.key, caller.certificate)


def _name(common_name: str) -> x509.Name:
    if not common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
