"""What a TLS port may serve: odd files that work over real gRPC, and those that are refused."""

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from authsvc.config import Settings
from authsvc.errors import ServerError
from authsvc.rpc.tls_material import TlsMaterial, check_server
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority, Certificate
from tests.support.probe import StartProbe, identity_of, outcome

FILES = (Path("tls.crt"), Path("tls.key"), Path("ca.crt"))
BOM = b"\xef\xbb\xbf"
EXPIRED = datetime(2021, 1, 1, tzinfo=UTC)

Contents = tuple[bytes, bytes, bytes]


def check(server: Certificate, authorities: bytes, chain: bytes = b"") -> TlsMaterial:
    return check_server(FILES, (server.certificate + chain, server.key, authorities))


def _plain(server: Certificate, authority: Authority) -> Contents:
    return server.certificate, server.key, authority.certificate


def _joined_without_newline(server: Certificate, authority: Authority) -> Contents:
    chain = server.certificate.strip() + authority.certificate
    return chain, server.key, Authority("Other").certificate.strip() + authority.certificate


def _with_byte_order_marks(server: Certificate, authority: Authority) -> Contents:
    return BOM + server.certificate, BOM + server.key, BOM + authority.certificate


def _with_text_between(server: Certificate, authority: Authority) -> Contents:
    chain = server.certificate + b"issuer: CN = Test\n" + authority.certificate
    bundle = authority.certificate + b"# other\n" + Authority("Other").certificate
    return b"subject: -\n" + chain, b"Bag Attributes\n" + server.key, bundle + b"end"


def _with_windows_lines(server: Certificate, authority: Authority) -> Contents:
    certificate, key, bundle = _plain(server, authority)
    return tuple(pem.replace(b"\n", b"\r\n") for pem in (certificate, key, bundle))  # type: ignore[return-value]


def _all_in_one_file(server: Certificate, authority: Authority) -> Contents:
    everything = server.key + server.certificate
    return everything, everything, authority.certificate


def _chain_in_wrong_order(server: Certificate, authority: Authority) -> Contents:
    return authority.certificate + server.certificate, server.key, authority.certificate


def _leaf_twice(server: Certificate, authority: Authority) -> Contents:
    return server.certificate * 2 + authority.certificate, server.key, authority.certificate


def _expired_authority_first(server: Certificate, authority: Authority) -> Contents:
    bundle = authority.renewed(EXPIRED) + authority.certificate * 2
    return server.certificate, server.key, bundle


ODD = [
    _plain,
    _joined_without_newline,
    _with_byte_order_marks,
    _with_text_between,
    _with_windows_lines,
    _all_in_one_file,
    _chain_in_wrong_order,
    _leaf_twice,
    _expired_authority_first,
]


@pytest.mark.parametrize("form", ODD)
async def test_files_as_they_are_found_are_served(
    form: Callable[[Certificate, Authority], Contents],
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    tls = settings.tls
    files = (tls.certificate_file, tls.key_file, tls.client_ca_file)
    for file, content in zip(files, form(authority.server(), authority), strict=True):
        file.write_bytes(content)
    probe = await start_probe(settings)
    call = AuthServiceStub(probe.clients.channel("app")).Login(pb.LoginRequest())
    assert await outcome(call) == "OK"
    fresh = authority.server()
    for file, content in zip(files, form(fresh, authority), strict=True):
        file.write_bytes(content)
    await probe.server.reload_certificate()
    stub = AuthServiceStub(probe.clients.open(authority.caller(identity_of("app"))))
    assert await outcome(stub.Login(pb.LoginRequest())) == "OK"
    assert probe.metrics.registry.get_sample_value("authsvc_tls_reload_failed") == 0


KEYS: dict[str, CertificateIssuerPrivateKeyTypes] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "DSA": dsa.generate_private_key(1_024),
    "ECDSA with secp521r1": ec.generate_private_key(ec.SECP521R1()),
    "ECDSA with secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "ECDSA with secp224r1": ec.generate_private_key(ec.SECP224R1()),
    "RSA with 1024 bits": rsa.generate_private_key(65_537, 1_024),
}


@pytest.mark.parametrize("kind", KEYS)
def test_key_that_clients_refuse_is_named(kind: str, authority: Authority) -> None:
    server = authority.server(key=KEYS[kind])
    with pytest.raises(ServerError, match=f"tls.crt has a key of the kind {kind}; supported are"):
        check(server, authority.certificate)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)],
    ids=["P-384", "RSA-2048"],
)
async def test_key_that_passes_the_check_works(
    key: CertificateIssuerPrivateKeyTypes,
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    server = authority.server(key=key)
    settings.tls.certificate_file.write_bytes(server.certificate)
    settings.tls.key_file.write_bytes(server.key)
    probe = await start_probe(settings)
    call = AuthServiceStub(probe.clients.channel("app")).Login(pb.LoginRequest())
    assert await outcome(call) == "OK"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_key_restricted_to_rsa_pss_is_named(tmp_path: Path, authority: Authority) -> None:
    command = ["req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/crt"]
    subprocess.run(["openssl", *command, *names, *files], check=True, capture_output=True)
    server = Certificate((tmp_path / "crt").read_bytes(), (tmp_path / "key").read_bytes())
    with pytest.raises(ServerError, match="a key of the kind RSASSA-PSS"):
        check(server, authority.certificate)


def _usage(*usages: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(usages)


KEY_AGREEMENT = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=True,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@pytest.mark.parametrize(
    ("extension", "problem"),
    [
        (_usage(ExtendedKeyUsageOID.CLIENT_AUTH), "lacks the extended key usage serverAuth"),
        (_usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "lacks the extended key usage"),
        (KEY_AGREEMENT, "lacks the key usage digitalSignature"),
    ],
)
def test_usage_that_clients_refuse_is_named(
    extension: x509.ExtensionType, problem: str, authority: Authority
) -> None:
    server = authority.server(extensions=[extension])
    with pytest.raises(ServerError, match=f"tls.crt {problem}"):
        check(server, authority.certificate)


def test_server_usage_is_enough(authority: Authority) -> None:
    server = authority.server(extensions=[_usage(ExtendedKeyUsageOID.SERVER_AUTH)])
    assert check(server, authority.certificate).leaf == server.parsed


def test_expired_and_future_certificates_are_refused(authority: Authority) -> None:
    now = datetime.now(UTC)
    with pytest.raises(ServerError, match=r"tls\.crt has expired on 2021-01-01"):
        check(authority.server(not_after=EXPIRED), authority.certificate)
    future = authority.issue(x509.DNSName("localhost"), not_before=now + timedelta(days=1))
    with pytest.raises(ServerError, match=r"tls\.crt is not valid before"):
        check(future, authority.certificate)


def test_bundle_of_expired_authorities_is_refused(authority: Authority) -> None:
    with pytest.raises(ServerError, match=r"ca.crt contains only expired certificates"):
        check(authority.server(), authority.renewed(EXPIRED))


def test_material_is_in_one_form_and_order(authority: Authority) -> None:
    """The leaf is found by its key, each issuer follows, and what belongs to none comes last."""
    server, other = authority.server(), Authority("Other")
    chain = other.certificate + authority.certificate
    expired, shorter = (
        authority.renewed(EXPIRED),
        authority.renewed(datetime(2048, 1, 1, tzinfo=UTC)),
    )
    contents = (chain + server.certificate, server.key, expired + shorter + authority.certificate)
    material = check_server(FILES, contents)
    assert material.leaf == server.parsed
    assert material.chain_pem == server.certificate + authority.certificate + other.certificate
    assert material.authorities_pem == authority.certificate + shorter + expired
    assert "PRIVATE" not in repr(material)
