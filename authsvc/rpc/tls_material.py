"""Owns what a TLS port serves: a certificate, its key and authorities, checked and in clean PEM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, PublicKeyAlgorithmOID

from authsvc.errors import ServerError
from authsvc.rpc.pem import PemError, read_certificates, read_private_key

# What gRPC's servers and clients both accept. Its servers start with Ed25519 and P-521, but its
# clients refuse them in the handshake.
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_RSA_BITS = range(2_048, 8_193)
_SUPPORTED = "supported are ECDSA with P-256 or P-384, and RSA with 2048 to 8192 bits"

_SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate, its key, and the authorities that sign the other side's, as clean PEM.

    `chain_pem` begins with the owner's certificate, and each issuer follows what it issued;
    `leaf` is that first certificate.
    """

    leaf: x509.Certificate
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    authorities_pem: bytes


def check_server(files: Sequence[Path], contents: Sequence[bytes]) -> TlsMaterial:
    """Return what a server can use of the contents of three files: certificate, key, authorities.

    Raises:
        ServerError: They can't be used; the message names the file and says why.
    """
    material = check_client(files, contents)
    if (flaw := _flaw(material.leaf, datetime.now(UTC))) is not None:
        raise ServerError(f"{files[0]} {flaw}")
    return material


def check_client(files: Sequence[Path], contents: Sequence[bytes]) -> TlsMaterial:
    """Return what a client can use of the same; whether it suits is up to the server.

    Raises:
        ServerError: They can't be used; the message names the file and says why.
    """
    certificate_file, key_file, authorities_file = files
    certificates = _parsed(read_certificates, certificate_file, contents[0])
    key = _parsed(read_private_key, key_file, contents[1])
    authorities = _parsed(read_certificates, authorities_file, contents[2])
    try:
        leaf = next(found for found in certificates if found.public_key() == key.public_key())
    except StopIteration:
        raise ServerError(f"{key_file} is not the key of {certificate_file}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ServerError(f"{certificate_file} has a key of an unsupported kind") from None
    now = datetime.now(UTC)
    if all(authority.not_valid_after_utc <= now for authority in authorities):
        raise ServerError(f"{authorities_file} contains only expired certificates")
    return TlsMaterial(
        leaf=leaf,
        chain_pem=_pem(_chain(leaf, certificates)),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authorities_pem=_pem(_ordered(authorities, now)),
    )


def _parsed(read: Callable[[bytes], Parsed], file: Path, content: bytes) -> Parsed:
    try:
        return read(content)
    except PemError as error:
        raise ServerError(f"{file} {error}") from None


def _flaw(leaf: x509.Certificate, now: datetime) -> str | None:
    """Return why gRPC's clients would refuse the certificate, or None."""
    if (kind := _unsupported_kind(leaf)) is not None:
        return f"has a key of the kind {kind}; {_SUPPORTED}"
    if leaf.not_valid_after_utc <= now:
        return f"has expired on {leaf.not_valid_after_utc}"
    if leaf.not_valid_before_utc > now:
        return f"is not valid before {leaf.not_valid_before_utc}"
    return _missing_usage(leaf)


def _unsupported_kind(leaf: x509.Certificate) -> str | None:
    key = leaf.public_key()
    if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        return "RSASSA-PSS"
    if isinstance(key, rsa.RSAPublicKey):
        return None if key.key_size in _RSA_BITS else f"RSA with {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if isinstance(key.curve, _CURVES) else f"ECDSA with {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


def _missing_usage(leaf: x509.Certificate) -> str | None:
    try:
        values = [extension.value for extension in leaf.extensions]
    except ValueError as error:
        return f"has invalid extensions: {error}"
    for value in values:
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            return "lacks the key usage digitalSignature"
        if isinstance(value, x509.ExtendedKeyUsage) and _SERVER_AUTH not in value:
            return "lacks the extended key usage serverAuth"
    return None


def _chain(
    leaf: x509.Certificate, certificates: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the leaf, then the issuer of each certificate, then what belongs to none of them."""
    chain, rest = [leaf], [found for found in certificates if found != leaf]
    while issuer := next((found for found in rest if found.subject == chain[-1].issuer), None):
        rest.remove(issuer)
        chain.append(issuer)
    return chain + rest


def _ordered(authorities: Sequence[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    """Return the authorities with those in force first, the longest-lived before all.

    Of several with one name, gRPC tries only the first: an expired authority would hide its own
    successor.
    """
    return sorted(
        authorities,
        key=lambda found: (
            found.not_valid_before_utc > now,
            -found.not_valid_after_utc.timestamp(),
        ),
    )


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(found.public_bytes(Encoding.PEM) for found in certificates)
