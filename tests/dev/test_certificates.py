"""The development authority: its certificates are accepted where they should be, and only there."""

import itertools
import os
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import VerificationError

from authsvc.dev import certificates
from authsvc.dev.certificates import CertificateError
from tests.support.tls import connect, load, policy

ROLES = ("app", "edge", "issuer", "admin", "observer")
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    certificates.init(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("role", ROLES)
def test_each_role_completes_handshake_with_server(issued: Path, role: str) -> None:
    assert connect(issued, role, host="localhost") == {f"spiffe://authsvc.dev/{role}"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_server_certificate_is_valid_for_its_addresses(issued: Path, host: str) -> None:
    connect(issued, "app", host=host)


def test_server_certificate_is_invalid_for_another_name(issued: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(issued, "app", host="authsvc.example")


def test_client_of_another_authority_is_rejected(issued: Path, tmp_path: Path) -> None:
    certificates.init(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(issued, "app", host="localhost", authority=tmp_path)


def test_server_certificate_is_no_client_certificate(issued: Path) -> None:
    server, client = load(issued / "server.crt"), load(issued / "clients" / "app.crt")
    as_server = policy(issued).build_server_verifier(x509.IPAddress(ip_address("127.0.0.1")))
    as_client = policy(issued).build_client_verifier()
    assert as_server.verify(server, []) == [server, load(issued / "ca.crt")]
    assert as_client.verify(client, []).subjects == [
        x509.UniformResourceIdentifier("spiffe://authsvc.dev/app")
    ]
    with pytest.raises(VerificationError):
        as_server.verify(client, [])
    with pytest.raises(VerificationError):
        as_client.verify(server, [])


def test_authority_can_only_sign(issued: Path) -> None:
    extensions = load(issued / "ca.crt").extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert used_for(usage.value) == {"key_cert_sign", "crl_sign"}
    assert len(extensions) == 3


@pytest.mark.parametrize(
    ("file", "purpose"),
    [
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("clients/edge", ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_leaf_certificate_has_expected_extensions(
    issued: Path, file: str, purpose: x509.ObjectIdentifier
) -> None:
    leaf, authority = load(issued / f"{file}.crt"), load(issued / "ca.crt")
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert constraints.critical
    assert not constraints.value.ca
    assert usage.critical
    assert used_for(usage.value) == {"digital_signature"}
    assert list(extended.value) == [purpose]
    assert issuer.key_identifier == identifier.digest
    assert len(leaf.extensions) == 6
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def used_for(usage: x509.KeyUsage) -> set[str]:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment"
        " key_agreement key_cert_sign crl_sign"
    )
    return {name for name in names.split() if getattr(usage, name)}


def test_valid_certificates_are_kept(issued: Path) -> None:
    before = contents(issued)
    again = certificates.init(issued)
    assert contents(issued) == before
    assert not any(one.made for one in again)
    assert [one.certificate.stem for one in again] == ["ca", "server", *ROLES]


@pytest.mark.parametrize(("left", "renewed"), [(6, True), (8, False)])
def test_certificates_expiring_within_a_week_are_renewed(
    tmp_path: Path, left: int, renewed: bool
) -> None:
    certificates.init(tmp_path)
    app = f"spiffe://{certificates.TRUST_DOMAIN}/app"
    certificates.issue(tmp_path, "app", uris=[app], lifetime=timedelta(days=left))
    before = contents(tmp_path)
    made = {one.certificate.stem for one in certificates.init(tmp_path) if one.made}
    after = contents(tmp_path)
    assert made == ({"app"} if renewed else set())
    changed = {"clients/app.crt", "clients/app.key"} if renewed else set()
    assert {name for name in after if after[name] != before[name]} == changed
    assert load(tmp_path / "clients" / "app.crt").not_valid_after_utc > datetime.now(UTC) + WEEK


def test_new_authority_reissues_everything(tmp_path: Path) -> None:
    before = {one.certificate: load(one.certificate) for one in certificates.init(tmp_path)}
    (tmp_path / "ca.crt").unlink()
    again = certificates.init(tmp_path)
    assert all(one.made for one in again)
    assert all(load(path) != certificate for path, certificate in before.items())
    assert connect(tmp_path, "edge", host="localhost")


def test_authority_without_key_is_left_unchanged(tmp_path: Path) -> None:
    certificates.init(tmp_path)
    (tmp_path / "ca.key").unlink()
    before = contents(tmp_path)
    with pytest.raises(CertificateError, match="has no key beside it"):
        certificates.init(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["key of another", "no certificate", "rubbish", "other names"])
def test_inconsistent_certificates_are_reissued(tmp_path: Path, damage: str) -> None:
    certificates.init(tmp_path)
    clients = tmp_path / "clients"
    match damage:
        case "key of another":
            (clients / "app.key").write_bytes((clients / "edge.key").read_bytes())
        case "no certificate":
            (clients / "app.crt").unlink()
        case "rubbish":
            (clients / "app.key").write_text("rubbish")
        case _:
            certificates.issue(tmp_path, "app", uris=["spiffe://authsvc.dev/other"])
    assert [one.certificate.stem for one in certificates.init(tmp_path) if one.made] == ["app"]
    assert connect(tmp_path, "app", host="localhost") == {"spiffe://authsvc.dev/app"}


def test_other_files_are_left_unchanged(tmp_path: Path) -> None:
    for name in ("notes.txt", "clients/mine.key"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    certificates.init(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "clients" / "mine.key").read_text() == "mine"
    expected = {"ca", "server", *(f"clients/{role}" for role in ROLES)}
    made = {f"{name}.{kind}" for name, kind in itertools.product(expected, ("crt", "key"))}
    assert set(contents(tmp_path)) == made | {"notes.txt", "clients/mine.key"}


@pytest.fixture
def generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_key_is_never_readable_by_others(
    tmp_path: Path, generous_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chmod, replace = Path.chmod, Path.replace
    written: list[int] = []
    moved: list[int] = []

    def watched_chmod(path: Path, wanted: int) -> None:
        written.append(mode(path))
        chmod(path, wanted)

    def watched_replace(source: Path, target: Path) -> Path:
        assert source.parent == target.parent
        moved.append(mode(source))
        return replace(source, target)

    with monkeypatch.context() as watch:
        watch.setattr(Path, "chmod", watched_chmod)
        watch.setattr(Path, "replace", watched_replace)
        issued = certificates.init(tmp_path)
    assert written == [0o600, 0o600] * len(issued)
    assert moved == [0o600, 0o644] * len(issued)
    assert {mode(one.key) for one in issued} == {0o600}
    issued[0].key.chmod(0o644)
    assert not certificates.init(tmp_path)[0].made
    assert mode(issued[0].key) == 0o600


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_concurrent_init_issues_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(certificates.init, [tmp_path] * 4))
    assert sorted(any(one.made for one in issued) for issued in results) == [False] * 3 + [True]
    assert connect(tmp_path, "app", host="localhost")


def test_custom_server_certificate_is_issued(tmp_path: Path) -> None:
    certificate, key = certificates.issue(
        tmp_path, "web", dns=["web.local"], ips=["::1"], server=True, lifetime=timedelta(hours=1)
    )
    assert (certificate, key) == (tmp_path / "web.crt", tmp_path / "web.key")
    verifier = policy(tmp_path).build_server_verifier(x509.DNSName("web.local"))
    assert verifier.verify(load(certificate), [])
    assert policy(tmp_path).build_client_verifier().verify(load(certificate), []).subjects
    assert load(certificate).not_valid_after_utc < datetime.now(UTC) + timedelta(hours=2)
    described = certificates.describe(certificate, key)
    assert described.names.labels == ("dns:web.local", "::1")


def test_certificate_does_not_outlive_authority(tmp_path: Path) -> None:
    certificate, _ = certificates.issue(tmp_path, "long", lifetime=timedelta(days=36_500))
    authority = load(tmp_path / "ca.crt")
    assert load(certificate).not_valid_after_utc <= authority.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "ca", "a\n", "ü"])
def test_name_cannot_escape_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError):
        certificates.issue(tmp_path / "certs", name, server=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "value"), [("uris", "spiffe://ü/x"), ("dns", "ü.example"), ("ips", "300.1.1.1")]
)
def test_malformed_name_is_rejected(tmp_path: Path, kind: str, value: str) -> None:
    with pytest.raises(CertificateError) as raised:
        certificates.issue(tmp_path, "x", **{kind: [value]})  # type: ignore[arg-type] # one of the three
    assert "\n" not in str(raised.value)


def test_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="file"):
        certificates.init(tmp_path / "file" / "certs")
    with pytest.raises(CertificateError, match=r"none\.crt can't be read"):
        certificates.describe(tmp_path / "none.crt", tmp_path / "none.key")
