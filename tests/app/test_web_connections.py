"""The HTTP port with TLS: a client certificate for the metrics alone, and reload."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.errors import ServerError
from tests.support.certificates import Authority, Certificate, write_files
from tests.support.http2 import tls_context
from tests.support.logs import caught
from tests.support.probe import with_changes
from tests.support.service import Service, StartService


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Path:
    """The folder of the port's certificate, key and authority."""
    folder = tmp_path / "http"
    folder.mkdir()
    write_files(folder, authority.certificate, authority.server())
    return folder


@pytest.fixture
def encrypted(live_settings: Settings, files: Path) -> Settings:
    """Settings with TLS on the HTTP port."""
    tls = live_settings.tls.model_copy(
        update={
            "certificate_file": files / "server.crt",
            "key_file": files / "server.key",
            "client_ca_file": files / "ca.crt",
        }
    )
    return with_changes(live_settings, "http", tls=tls)


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


class Https:
    """Sends requests to the HTTP port of a service over TLS."""

    def __init__(self, http: aiohttp.ClientSession, service: Service, authority: Authority) -> None:
        self._http = http
        self._base = f"https://localhost:{service.app.http_port}"
        self._authority = authority

    async def __call__(self, path: str, caller: Certificate | None = None) -> int:
        context = self.context(caller)
        async with self._http.get(self._base + path, ssl=context) as response:
            await response.read()
            return response.status

    def context(
        self, caller: Certificate | None = None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        context = tls_context(self._authority.certificate, caller, version)
        context.set_alpn_protocols(["http/1.1"])
        return context


def _metric(service: Service, name: str) -> float | None:
    return service.app.web._metrics.registry.get_sample_value(f"authsvc_http_tls_{name}")


async def test_only_metrics_require_client_certificate(
    start_service: StartService,
    encrypted: Settings,
    authority: Authority,
    http: aiohttp.ClientSession,
) -> None:
    service = await start_service(encrypted)
    leaf = service.app.server.certificate.served.leaf
    assert (
        _metric(service, "certificate_expire_time_seconds") == leaf.not_valid_after_utc.timestamp()
    )
    assert (
        _metric(service, "certificate_issue_time_seconds") == leaf.not_valid_before_utc.timestamp()
    )
    get = Https(http, service, authority)
    for path in ("/livez", "/readyz", "/.well-known/jwks.json"):
        assert await get(path) == 200
    assert await get("/metrics") == 403
    prometheus = authority.caller("spiffe://authsvc.test/prometheus")
    assert await get("/metrics", prometheus) == 200
    assert await get("/livez", prometheus) == 200
    with pytest.raises((aiohttp.ClientError, OSError)):
        await get("/livez", Authority().caller("spiffe://authsvc.test/prometheus"))
    with pytest.raises((aiohttp.ClientError, OSError)):
        await http.get(get._base.replace("https", "http") + "/livez")


async def test_tls_version_and_weak_suites_are_refused(
    start_service: StartService,
    encrypted: Settings,
    authority: Authority,
    http: aiohttp.ClientSession,
) -> None:
    assert encrypted.http.tls
    tls = encrypted.http.tls.model_copy(update={"min_version": "1.3"})
    service = await start_service(with_changes(encrypted, "http", tls=tls))
    get = Https(http, service, authority)
    assert await get("/livez") == 200
    old = get.context(version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("localhost", service.app.http_port, ssl=old)


async def test_unfinished_handshakes_shut_nobody_out(
    start_service: StartService,
    encrypted: Settings,
    authority: Authority,
    http: aiohttp.ClientSession,
) -> None:
    few = with_changes(encrypted, "http", max_connections=8, max_connections_per_network=4)
    service = await start_service(few)
    get = Https(http, service, authority)
    silent = [await asyncio.open_connection("127.0.0.1", service.app.http_port) for _ in range(20)]
    assert await get("/livez") == 200
    # More than the limit of a network were opened, so the first ones have ended.
    async with asyncio.timeout(30):
        assert await silent[0][0].read() == b""
    for _, writer in silent:
        writer.transport.abort()


async def test_changed_certificate_is_served_and_invalid_one_is_not(
    start_service: StartService,
    encrypted: Settings,
    authority: Authority,
    http: aiohttp.ClientSession,
    files: Path,
) -> None:
    service = await start_service(encrypted)
    get = Https(http, service, authority)
    first = await served(service, get)
    (files / "server.key").write_text("nonsense")
    with caught() as log:
        for _ in range(2):
            await service.app.web.reload_certificate()
    assert log.getvalue().count("certificates_not_reloaded") == 1
    assert _metric(service, "reload_failed") == 1
    assert await served(service, get) == first
    write_files(files, authority.certificate, authority.server())
    await service.app.web.reload_certificate()
    assert _metric(service, "reload_failed") == 0
    assert await served(service, get) != first
    assert await get("/livez") == 200


async def served(service: Service, get: Https) -> bytes:
    """Return the certificate that the port shows."""
    _, writer = await asyncio.open_connection("localhost", service.app.http_port, ssl=get.context())
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return bytes(found)


async def test_unusable_certificate_prevents_start(
    start_service: StartService, encrypted: Settings, files: Path
) -> None:
    (files / "server.crt").write_text("nothing")
    with pytest.raises(ServerError, match=r"server\.crt"):
        await start_service(encrypted)
