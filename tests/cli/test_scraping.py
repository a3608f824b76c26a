"""Metrics are read from each replica by real HTTP and HTTPS, and from nobody else."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from authsvc.cli import scraping
from authsvc.cli.scraping import Replica, client_tls, own_tls, own_url, replicas, scrape
from authsvc.config import HttpSettings, Settings, TlsSettings
from authsvc.dev.workspace import Workspace
from authsvc.errors import ServerError
from authsvc.outbound.http import open_session
from tests.support.metrics_server import MetricsServer, metrics_server

METRICS = "authsvc_uptime_seconds 5\n"


@pytest.fixture
def serving(workspace: Workspace) -> ssl.SSLContext:
    """The TLS of an HTTP port that asks for a client's certificate."""
    folder = workspace.certificates
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.crt")
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    return tls


def client(workspace: Workspace) -> tuple[Path, Path]:
    """Return a client's certificate and its key."""
    folder = workspace.certificates / "clients"
    return folder / "app.crt", folder / "app.key"


def at(server: MetricsServer, host: str = "127.0.0.1") -> Replica:
    """Return the replica at a server, found by a name."""
    return Replica(server.name, server.url.replace("127.0.0.1", host) + "/metrics", "", host)


async def read(replica: Replica, tls: ssl.SSLContext | None = None) -> float | None:
    async with open_session() as http:
        return (await scrape(http, replica, tls, seconds=60)).value("authsvc_uptime_seconds")


async def test_replica_is_asked_by_its_address_for_the_name_that_was_given() -> None:
    """As a proxy before it may go by that name."""
    async with metrics_server(METRICS) as server:
        assert await read(at(server, "authsvc-headless")) == 5
        port = server.url.rpartition(":")[2]
        assert server.hosts == [f"authsvc-headless:{port}"]


@pytest.mark.parametrize("status", [204, 302, 404, 503])
async def test_only_an_answer_of_200_has_metrics(status: int) -> None:
    async with metrics_server(METRICS) as server:
        server.status = status
        with pytest.raises(ServerError, match=f"answers {status}"):
            await read(at(server))
        # A redirect might lead anywhere, so it is not followed.
        assert len(server.hosts) == 1


async def test_certificate_has_to_be_for_the_name_that_was_given(
    workspace: Workspace, serving: ssl.SSLContext
) -> None:
    folder = workspace.certificates
    tls = client_tls(folder / "ca.crt", *client(workspace))
    async with metrics_server(METRICS, tls=serving) as server:
        assert await read(at(server, "localhost"), tls) == 5
        with pytest.raises(ServerError, match=r"can't be reached|does not answer"):
            await read(at(server, "elsewhere.test"), tls)


async def test_client_shows_its_certificate_and_trusts_one_authority(
    workspace: Workspace, serving: ssl.SSLContext
) -> None:
    folder = workspace.certificates
    pair = client(workspace)
    async with metrics_server(METRICS, tls=serving) as server:
        for tls in (client_tls(folder / "ca.crt", None, None), client_tls(None, *pair), None):
            with pytest.raises(ServerError):
                await read(at(server, "localhost"), tls)
        assert await read(at(server, "localhost"), client_tls(folder / "ca.crt", *pair)) == 5


async def test_own_metrics_are_read_whatever_the_certificate_is_for(
    workspace: Workspace, settings: Settings, serving: ssl.SSLContext
) -> None:
    """On this machine, nobody is in between."""
    certificate, key = client(workspace)
    tls = TlsSettings(
        certificate_file=certificate,
        key_file=key,
        # Of others: the service's own certificate need not be of it.
        client_ca_file=settings.tls.client_ca_file,
    )
    own = settings.model_copy(update={"http": HttpSettings(address="127.0.0.1:8081", tls=tls)})
    assert own_url(own) == "https://127.0.0.1:8081/metrics"
    async with metrics_server(METRICS, tls=serving) as server:
        assert await read(at(server, "elsewhere.test"), own_tls(own)) == 5


def test_own_metrics_without_tls_are_read_by_http(settings: Settings) -> None:
    plain = settings.model_copy(update={"http": HttpSettings(address="0.0.0.0:8081")})
    assert own_url(plain) == "http://127.0.0.1:8081/metrics"
    assert own_tls(plain) is None


@pytest_asyncio.fixture
async def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of every name; the resolver is not ours."""
    ips: list[str] = []

    async def resolve(_host: str, port: int, **_: object) -> Sequence[Any]:
        return [(None, None, 0, "", (ip, port)) for ip in ips]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    return ips


async def test_addresses_of_ipv6_alone_are_replicas(resolved: list[str]) -> None:
    resolved += ["fd00::1", "fd00::2"]
    found = await replicas("http://authsvc-headless:8081/metrics")
    assert [each.name for each in found] == ["[fd00::1]:8081", "[fd00::2]:8081"]


async def test_this_machine_is_one_replica(resolved: list[str]) -> None:
    resolved += ["127.0.0.1", "127.0.0.2"]
    assert len(await replicas("http://localhost:8081/metrics")) == 1
    assert len(await replicas("http://authsvc:8081/metrics")) == 2


async def test_port_follows_the_scheme(resolved: list[str]) -> None:
    resolved.append("10.0.0.1")
    for url, name in (("https://a/metrics", "10.0.0.1:443"), ("http://a/metrics", "10.0.0.1:80")):
        assert [each.name for each in await replicas(url)] == [name]


async def test_replicas_are_bounded(resolved: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_MOST_REPLICAS", 2)
    resolved += ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert len(await replicas("http://authsvc:8081/metrics")) == 2


async def test_answer_that_is_no_text_of_prometheus_is_a_problem() -> None:
    async with metrics_server("<html>") as server:
        with pytest.raises(ServerError, match="something else than metrics"):
            await read(at(server))


def test_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"none\.crt: No such file"):
        client_tls(tmp_path / "none.crt", None, None)
