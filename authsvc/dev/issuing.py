"""Owns the X.509 certificates of the development CA, its server and its clients.

ECDSA on P-256 throughout; the extensions follow RFC 5280 and the X.509-SVID specification.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_LIFETIME = timedelta(days=3650)
# The clocks of machines and containers differ slightly.
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Names:
    """The alternative names of a certificate."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """All names, with DNS names written `dns:name` as in the settings."""
        return *self.uris, *(f"dns:{name}" for name in self.dns), *self.ips


@dataclass(frozen=True, slots=True)
class Usage:
    """The purposes of a certificate."""

    client: bool
    server: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority() -> Pair:
    """Create a self-signed CA that issues only leaf certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A unique name lets software that knows several such CAs tell them apart.
    subject = _subject(f"authsvc development CA {secrets.token_hex(4)}")
    builder = (
        _builder(subject, subject, key, _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(
    authority: Pair, common_name: str, names: Names, usage: Usage, lifetime: timedelta
) -> Pair:
    """Create a certificate that expires after `lifetime`, but not after its CA.

    Raises ValueError for malformed names.
    """
    issuer = authority.certificate
    key = ec.generate_private_key(ec.SECP256R1())
    left = issuer.not_valid_after_utc - datetime.now(UTC)
    builder = (
        _builder(_subject(common_name), issuer.subject, key, min(lifetime, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_purposes(usage)), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    general_names = _general_names(names)
    if general_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names), critical=False)
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def names_of(certificate: x509.Certificate) -> Names:
    """Return the alternative names in `certificate`."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names()
    return Names(
        tuple(found.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(found.get_values_for_type(x509.DNSName)),
        tuple(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(identifier, critical=False)
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_names(names: Names) -> list[x509.GeneralName]:
    return [
        *(x509.UniformResourceIdentifier(uri) for uri in names.uris),
        *(x509.DNSName(name) for name in names.dns),
        *(x509.IPAddress(ip_address(address)) for address in names.ips),
    ]


def _purposes(usage: Usage) -> list[x509.ObjectIdentifier]:
    purposes = []
    if usage.server:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if usage.client:
        purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return purposes


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
