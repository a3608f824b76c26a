"""The connection: nothing less than mutual TLS, and certificates that change while serving."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PosixPath
from typing import ClassVar

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs

from authsvc.app.handshake import presented_certificate
from authsvc.config import Settings
from authsvc.errors import ServerError
from authsvc.rpc.tls import ServerCertificate
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority, Certificate, write_files
from tests.support.http2 import Connection, tls_context
from tests.support.probe import ProbeServer, StartProbe, identity_of, outcome, with_changes
from tests.support.service import StartService

APP = identity_of("app")
LOGIN = "/authsvc.v1.AuthService/Login"
CALLS = ("authsvc_rpc_calls_total", {"method": LOGIN, "code": "OK", "reason": ""})


async def attempt(probe: ProbeServer, certificate: Certificate | None) -> str:
    stub = AuthServiceStub(probe.clients.open(certificate))
    return await outcome(stub.Login(pb.LoginRequest()))


async def test_certificate_of_authority_is_accepted(
    probe: ProbeServer, authority: Authority
) -> None:
    assert await attempt(probe, authority.caller(APP)) == "OK"


async def test_missing_certificate_is_rejected(probe: ProbeServer) -> None:
    assert await attempt(probe, None) == "UNAVAILABLE"


async def test_certificate_of_another_authority_is_rejected(probe: ProbeServer) -> None:
    # The other authority even has the same name.
    assert await attempt(probe, Authority().caller(APP)) == "UNAVAILABLE"


async def test_expired_certificate_is_rejected(probe: ProbeServer, authority: Authority) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert await attempt(probe, authority.caller(APP, not_after=yesterday)) == "UNAVAILABLE"


async def test_certificate_not_yet_valid_is_rejected(
    probe: ProbeServer, authority: Authority
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    uri = x509.UniformResourceIdentifier(APP)
    assert await attempt(probe, authority.issue(uri, not_before=tomorrow)) == "UNAVAILABLE"


async def test_server_only_certificate_is_rejected(
    probe: ProbeServer, authority: Authority
) -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = authority.issue(x509.UniformResourceIdentifier(APP), extensions=[usage])
    assert await attempt(probe, certificate) == "UNAVAILABLE"


async def test_plaintext_is_rejected(probe: ProbeServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{probe.server.port}") as channel:
        assert await outcome(AuthServiceStub(channel).Login(pb.LoginRequest())) == "UNAVAILABLE"


async def handshake(probe: ProbeServer, context: ssl.SSLContext) -> str:
    """Return the negotiated version, or "" if the server rejects the client."""
    try:
        async with Connection.open(probe.server.port, context) as connection:
            # With TLS 1.3, a client learns only after the handshake that it was rejected.
            if await connection.frame() is None:
                return ""
            return str(connection.tls.version())
    except OSError:
        return ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_current_tls_versions_are_accepted(
    version: ssl.TLSVersion, probe: ProbeServer, authority: Authority
) -> None:
    context = tls_context(authority.certificate, authority.caller(APP), version)
    assert (await handshake(probe, context)).replace(".", "_") == version.name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
async def test_old_tls_versions_are_rejected(
    name: str, probe: ProbeServer, authority: Authority
) -> None:
    context = tls_context(authority.certificate, authority.caller(APP), ssl.TLSVersion[name])
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert await handshake(probe, context) == ""


@pytest.mark.parametrize(
    ("suites", "accepted"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
        ("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256", False),
        ("AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES256-SHA", False),
    ],
)
async def test_only_aead_suites_with_forward_secrecy_are_accepted(
    suites: str, accepted: bool, probe: ProbeServer, authority: Authority
) -> None:
    caller = authority.caller(APP)
    context = tls_context(authority.certificate, caller, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    assert bool(await handshake(probe, context)) is accepted


@pytest.mark.parametrize(
    ("minimum", "version", "allowed"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_minimum_version_is_enforced(
    minimum: str,
    version: ssl.TLSVersion,
    allowed: bool,
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    probe = await start_probe(with_changes(settings, "tls", min_version=minimum))
    context = tls_context(authority.certificate, authority.caller(APP), version)
    async with Connection.open(probe.server.port, context) as connection:
        received = await connection.call(LOGIN)
    assert (b"The caller is not allowed" not in received) is allowed
    assert (probe.metrics.registry.get_sample_value(*CALLS) or 0) == allowed


def replace(settings: Settings, authority: bytes, server: Certificate) -> None:
    """Replace the files in use, each atomically."""
    folder = settings.tls.certificate_file.parent
    fresh = folder / "fresh"
    fresh.mkdir()
    write_files(fresh, authority, server)
    for file in fresh.iterdir():
        file.rename(folder / file.name)
    fresh.rmdir()


def gauge(probe: ProbeServer, name: str) -> float | None:
    return probe.metrics.registry.get_sample_value(f"authsvc_tls_{name}")


async def served(probe: ProbeServer, authority: Authority) -> bytes:
    """Return the certificate that the server presents to a new connection."""
    context = tls_context(authority.certificate, authority.caller(APP))
    async with Connection.open(probe.server.port, context) as connection:
        presented = connection.tls.getpeercert(binary_form=True)
        assert presented is not None
        return presented


async def test_changed_certificate_is_reloaded(
    probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    before = await attempt(probe, authority.caller(APP))
    fresh = authority.server(not_after=datetime(2040, 1, 1, tzinfo=UTC))
    replace(settings, authority.certificate, fresh)
    with capture_logs() as logs:
        await probe.server.reload_certificate()
        await probe.server.reload_certificate()
    assert before == "OK"
    assert await served(probe, authority) == fresh.der
    assert gauge(probe, "certificate_expire_time_seconds") == (
        datetime(2040, 1, 1, tzinfo=UTC).timestamp()
    )
    issued = gauge(probe, "certificate_issue_time_seconds")
    assert issued == fresh.parsed.not_valid_before_utc.timestamp()
    (entry,) = logs
    assert entry["event"] == "certificates_reloaded"
    assert int(entry["serial_number"], 16) == fresh.parsed.serial_number


async def test_changed_authority_is_reloaded(
    probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    other = Authority("Another authority")
    replace(settings, other.certificate, authority.server())
    await probe.server.reload_certificate()
    assert await attempt(probe, other.caller(APP)) == "OK"
    assert await attempt(probe, authority.caller(APP)) == "UNAVAILABLE"


async def test_certificate_is_reloaded_without_calls_and_signals(
    start_service: StartService, live_settings: Settings, authority: Authority
) -> None:
    service = await start_service(live_settings)
    fresh = authority.server(not_after=datetime(2041, 1, 1, tzinfo=UTC))
    replace(live_settings, authority.certificate, fresh)
    async with asyncio.timeout(30):
        while await presented_certificate(service.app.grpc_address) != fresh.der:  # noqa: ASYNC110 - another port's state has no event
            await asyncio.sleep(0.05)


async def test_mounted_secret_is_reloaded(
    start_probe: StartProbe, settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    """Kubernetes swaps a link to a folder, so that all files change at once."""
    fresh = authority.server()
    for name, server in (("old", authority.server()), ("new", fresh)):
        (tmp_path / name).mkdir()
        write_files(tmp_path / name, authority.certificate, server)
    data = tmp_path / "..data"
    data.symlink_to("old")
    probe = await start_probe(
        with_changes(
            settings,
            "tls",
            certificate_file=data / "server.crt",
            key_file=data / "server.key",
            client_ca_file=data / "ca.crt",
        )
    )
    (tmp_path / "..next").symlink_to("new")
    (tmp_path / "..next").rename(data)
    await probe.server.reload_certificate()
    assert await served(probe, authority) == fresh.der


async def test_half_a_renewal_is_used_once_it_is_complete(
    probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    original, fresh = await served(probe, authority), authority.server()
    settings.tls.certificate_file.write_bytes(fresh.certificate)
    with capture_logs() as logs:
        await probe.server.reload_certificate()
        await probe.server.reload_certificate()
        halfway, failed = await served(probe, authority), gauge(probe, "reload_failed")
        settings.tls.key_file.write_bytes(fresh.key)
        await probe.server.reload_certificate()
    assert (halfway, failed) == (original, 1)
    assert (await served(probe, authority), gauge(probe, "reload_failed")) == (fresh.der, 0)
    assert [entry["event"] for entry in logs] == [
        "certificates_not_reloaded",
        "certificates_reloaded",
    ]
    assert "server.key is not the key of" in logs[0]["problem"]


async def test_restored_files_end_the_problem(
    probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    original = settings.tls.certificate_file.read_bytes()
    settings.tls.certificate_file.write_text("rubbish")
    await probe.server.reload_certificate()
    failed = gauge(probe, "reload_failed")
    settings.tls.certificate_file.write_bytes(original)
    with capture_logs() as logs:
        await probe.server.reload_certificate()
    assert (failed, gauge(probe, "reload_failed"), logs) == (1, 0, [])


class ReplacedFile(PosixPath):
    """A file that is replaced after each time it was read."""

    versions: ClassVar[Iterator[bytes]]

    def read_bytes(self) -> bytes:
        return next(self.versions)


async def test_files_that_change_while_read_are_left_for_the_next_time(
    settings: Settings, authority: Authority
) -> None:
    """A key read after the certificate may be newer: nothing is wrong with the files."""
    original, fresh = settings.tls.key_file.read_bytes(), authority.server().key
    ReplacedFile.versions = iter((original, fresh, original))
    key_file = ReplacedFile(settings.tls.key_file)
    certificate = ServerCertificate(settings.tls.model_copy(update={"key_file": key_file}))
    with capture_logs() as logs:
        await certificate.reload(unasked)
    assert (logs, certificate.problem) == ([], "")


async def unasked() -> bytes:
    raise AssertionError("no handshake was expected")


async def test_certificate_that_is_not_presented_is_withdrawn(
    settings: Settings, authority: Authority
) -> None:
    """The expiry that monitoring sees must not be that of a certificate that nobody gets."""
    certificate = ServerCertificate(settings.tls)
    before = certificate.served
    write_files(settings.tls.key_file.parent, authority.certificate, authority.server())
    handshakes = []

    async def presented() -> bytes:
        handshakes.append(1)
        return before.leaf.public_bytes(Encoding.DER)

    with capture_logs() as logs:
        await certificate.reload(presented)
        await certificate.reload(presented)
    assert certificate.served is before
    assert "another certificate is served" in certificate.problem
    assert [entry["event"] for entry in logs] == ["certificates_not_reloaded"]
    assert len(handshakes) == 1


async def test_certificate_that_fails_in_the_handshake_is_withdrawn(
    settings: Settings, authority: Authority
) -> None:
    certificate = ServerCertificate(settings.tls)
    before = certificate.served
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", certificate.credentials())
    await server.start()
    fresh = authority.server()
    write_files(settings.tls.key_file.parent, authority.certificate, fresh)
    seen = []

    async def presented() -> bytes:
        seen.append(await presented_certificate(f"127.0.0.1:{port}"))
        raise ssl.SSLError(1, "sslv3 alert handshake failure")

    await certificate.reload(presented)
    seen.append(await presented_certificate(f"127.0.0.1:{port}"))
    await server.stop(None)
    assert seen == [fresh.der, before.leaf.public_bytes(Encoding.DER)]
    assert certificate.served is before
    assert "server.crt fails in the handshake" in certificate.problem


async def test_certificate_that_fails_in_the_handshake_prevents_the_start(
    settings: Settings,
) -> None:
    certificate = ServerCertificate(settings.tls)

    async def presented() -> bytes:
        raise ssl.SSLError(1, "sslv3 alert handshake failure")

    with pytest.raises(ServerError, match=r"server\.crt fails in the handshake"):
        await certificate.confirm(presented)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), ssl.SSLEOFError(8, "closed")])
async def test_handshake_without_a_connection_is_repeated(
    error: OSError, settings: Settings, authority: Authority
) -> None:
    """A port that has too many connections says nothing about the certificate."""
    certificate = ServerCertificate(settings.tls)
    fresh = authority.server()
    write_files(settings.tls.key_file.parent, authority.certificate, fresh)
    answers: list[bytes | OSError] = [error, fresh.der]

    async def presented() -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    await certificate.reload(presented)
    unconfirmed = certificate.served.leaf, certificate.problem
    await certificate.reload(presented)
    assert unconfirmed[0] != fresh.parsed
    assert unconfirmed[1] == str(error)
    assert (certificate.served.leaf, certificate.problem) == (fresh.parsed, "")
    with capture_logs() as logs:
        answers.append(error)
        await certificate.confirm(presented)
    assert [entry["event"] for entry in logs] == ["certificate_not_confirmed"]


def _without_key(folder: Path, _authority: Authority) -> None:
    (folder / "server.key").unlink()


def _with_rubbish(folder: Path, _authority: Authority) -> None:
    (folder / "server.crt").write_text("rubbish")


def _with_another_key(folder: Path, authority: Authority) -> None:
    (folder / "server.key").write_bytes(authority.server().key)


def _with_empty_authority(folder: Path, _authority: Authority) -> None:
    (folder / "ca.crt").write_bytes(b"")


def _expired(folder: Path, authority: Authority) -> None:
    certificate = authority.server(not_after=datetime.now(UTC) - timedelta(seconds=1))
    write_files(folder, authority.certificate, certificate)


Spoil = Callable[[Path, Authority], None]
SPOILT = [_without_key, _with_rubbish, _with_another_key, _with_empty_authority, _expired]


@pytest.mark.parametrize("spoil", SPOILT)
async def test_invalid_files_keep_current_certificate(
    spoil: Spoil, probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    original = x509.load_pem_x509_certificate(settings.tls.certificate_file.read_bytes())
    spoil(settings.tls.certificate_file.parent, authority)
    await probe.server.reload_certificate()
    assert await attempt(probe, authority.caller(APP)) == "OK"
    assert await served(probe, authority) == original.public_bytes(Encoding.DER)
    assert gauge(probe, "reload_failed") == 1
    assert gauge(probe, "certificate_expire_time_seconds") == (
        original.not_valid_after_utc.timestamp()
    )


@pytest.mark.parametrize("spoil", SPOILT)
def test_invalid_files_are_reported_at_start(
    spoil: Spoil, settings: Settings, authority: Authority
) -> None:
    folder = settings.tls.certificate_file.parent
    spoil(folder, authority)
    with pytest.raises(ServerError, match=str(folder)):
        ServerCertificate(settings.tls)


async def test_open_connections_survive_certificate_change(
    probe: ProbeServer, settings: Settings, authority: Authority
) -> None:
    stub = AuthServiceStub(probe.clients.channel("app"))
    assert await outcome(stub.Login(pb.LoginRequest())) == "OK"
    replace(settings, Authority("Another").certificate, authority.server())
    await probe.server.reload_certificate()
    calls = [outcome(stub.Login(pb.LoginRequest())) for _ in range(10)]
    assert set(await asyncio.gather(*calls)) == {"OK"}
