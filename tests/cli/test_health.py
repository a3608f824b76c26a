"""`authsvc health`: under which name it verifies the service, and what it says if it can't."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from authsvc.cli.health import health_status
from authsvc.cli.main import app
from authsvc.config import Settings
from authsvc.dev.workspace import Workspace
from authsvc.errors import ServerError
from tests.support.certificates import Authority, Certificate, channel_credentials
from tests.support.connect_proxy import proxying
from tests.support.probe import ProbeServer, StartProbe, identity_of, with_changes

SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
DEADLINE = 30.0


def credentials_of(authority: Authority) -> grpc.ChannelCredentials:
    return channel_credentials(authority.certificate, authority.caller(identity_of("app")))


async def serve(
    server: Certificate, start_probe: StartProbe, settings: Settings, address: str = "127.0.0.1:0"
) -> ProbeServer:
    settings.tls.certificate_file.write_bytes(server.certificate)
    settings.tls.key_file.write_bytes(server.key)
    return await start_probe(with_changes(settings, "grpc", address=address))


ORDINARY = [
    ("", [x509.DNSName("authsvc.example.com")]),
    ("", [x509.DNSName("*.example.com")]),
    ("", [x509.UniformResourceIdentifier("spiffe://a/b"), x509.IPAddress(ip_address("10.1.2.3"))]),
    ("authsvc.example.com", []),
]


@pytest.mark.parametrize(("common_name", "names"), ORDINARY)
async def test_ordinary_certificate_is_enough(
    common_name: str,
    names: list[x509.GeneralName],
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    """It names neither this machine nor the usage of a client."""
    server = authority.issue(*names, common_name=common_name, extensions=[SERVER_ONLY])
    probe = await serve(server, start_probe, settings)
    for host in ("127.0.0.1", "localhost"):
        target = f"{host}:{probe.server.port}"
        assert await health_status(target, "", credentials_of(authority), DEADLINE) == "SERVING"


async def test_proxy_for_outbound_requests_is_not_used(
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = await serve(authority.server(), start_probe, settings)
    async with proxying() as proxy:
        for name in ("https_proxy", "http_proxy"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv("no_proxy", "")
        target = f"127.0.0.1:{probe.server.port}"
        assert await health_status(target, "", credentials_of(authority), DEADLINE) == "SERVING"
        assert proxy.asked == []


async def test_unix_socket_can_be_asked(
    start_probe: StartProbe, settings: Settings, authority: Authority, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/grpc.sock"
    server = authority.issue(x509.DNSName("authsvc.example.com"))
    await serve(server, start_probe, settings, address)
    assert await health_status(address, "", credentials_of(authority), DEADLINE) == "SERVING"


async def test_server_name_is_what_the_certificate_must_contain(
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    server = authority.issue(x509.DNSName("authsvc.example.com"))
    probe = await serve(server, start_probe, settings)
    target, credentials = f"127.0.0.1:{probe.server.port}", credentials_of(authority)
    assert await health_status(target, "authsvc.example.com", credentials, DEADLINE) == "SERVING"
    with pytest.raises(ServerError, match="does not answer: UNAVAILABLE"):
        await health_status(target, "other.example.com", credentials, DEADLINE)


async def test_certificate_of_another_authority_is_refused(
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    """The name comes from the certificate, but whether it is genuine does not."""
    server = Authority().issue(x509.DNSName("authsvc.example.com"))
    probe = await serve(server, start_probe, settings)
    with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
        await health_status(
            f"127.0.0.1:{probe.server.port}", "", credentials_of(authority), DEADLINE
        )


async def test_certificate_without_hosts_is_explained(
    start_probe: StartProbe,
    settings: Settings,
    authority: Authority,
) -> None:
    server = authority.issue(x509.UniformResourceIdentifier("spiffe://example.com/authsvc"))
    probe = await serve(server, start_probe, settings)
    with pytest.raises(ServerError, match="names no host"):
        await health_status(
            f"127.0.0.1:{probe.server.port}", "", credentials_of(authority), DEADLINE
        )


async def test_certificate_with_invalid_extensions_is_explained(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """OpenSSL serves none, other libraries do."""
    subject_alternative_name = x509.UnrecognizedExtension(
        x509.SubjectAlternativeName.oid, b"\xffnonsense"
    )
    pem = authority.issue(extensions=[subject_alternative_name]).certificate
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    async def presented(*_: object) -> bytes:
        return der

    monkeypatch.setattr("authsvc.cli.connection.presented_certificate", presented)
    with pytest.raises(ServerError, match="invalid extensions"):
        await health_status("127.0.0.1:1", "", credentials_of(authority), DEADLINE)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf"])
def test_impossible_timeout_is_refused_in_one_line(timeout: str) -> None:
    result = CliRunner().invoke(app, ["health", "--timeout", timeout])
    assert result.exit_code == 1
    assert result.stderr == "error: --timeout is more than 0 and at most 3600 seconds\n"


@pytest.mark.parametrize(
    ("status", "expected"), [(200, "SERVING"), (503, "is not ready: the database is away")]
)
async def test_http_port_is_asked_without_a_certificate(status: int, expected: str) -> None:
    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="not ready: the database is away\n")

    site = web.Application()
    site.router.add_get("/readyz", readyz)
    async with TestServer(site) as server:
        address = f"http://127.0.0.1:{server.port}"
        result = await asyncio.to_thread(CliRunner().invoke, app, ["health", "--http", address])
    assert expected in result.output
    assert result.exit_code == (0 if status == 200 else 1)


@pytest.mark.parametrize(
    "address", ["localhost:8081", "ftp://localhost", "http:///x", "http://a/b"]
)
def test_http_address_is_checked(address: str) -> None:
    result = CliRunner().invoke(app, ["health", "--http", address])
    assert result.exit_code == 1
    assert "--http: expected an address" in result.output


def test_http_port_that_does_not_answer_is_explained() -> None:
    result = CliRunner().invoke(app, ["health", "--http", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "http://127.0.0.1:1 does not answer: " in result.output


@pytest.mark.parametrize(("status", "expected"), [(200, "SERVING"), (503, "is not ready")])
async def test_service_of_the_settings_is_asked_where_there_are_no_certificates(
    status: int,
    expected: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a pod, where a client's certificate would not help anybody."""

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="the database is away\n")

    workspace.set_database("postgresql://nowhere/nothing")
    monkeypatch.setenv("AUTHSVC_CONFIG", str(tmp_path / ".authsvc/config.toml"))
    monkeypatch.setenv("AUTHSVC_SECRETS_DIR", str(tmp_path / ".authsvc/secrets"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    site = web.Application()
    site.router.add_get("/readyz", readyz)
    async with TestServer(site) as server:
        monkeypatch.setenv("AUTHSVC_HTTP__ADDRESS", f"0.0.0.0:{server.port}")
        result = await asyncio.to_thread(CliRunner().invoke, app, ["health"])
    assert expected in result.output
    assert result.exit_code == (0 if status == 200 else 1)


def test_authority_of_the_http_port_that_is_missing_is_one_line() -> None:
    arguments = ["health", "--http", "https://127.0.0.1:1", "--ca", "missing.crt"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr == "error: missing.crt: No such file or directory\n"
