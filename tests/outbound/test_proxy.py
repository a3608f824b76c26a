"""Requests through a real proxy: which of them take it, and what it can't do to them."""

import io
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509
from pydantic import ValidationError

from authsvc.config import ConfigError, OutboundSettings, WebhookSettings
from authsvc.core.federation.providers import AuthorizationAnswer
from authsvc.core.federation.states import PendingLogin
from authsvc.core.messages.delivery import NotDelivered
from authsvc.errors import ProviderMisconfigured, ProviderUnavailable
from authsvc.outbound.http import open_session
from authsvc.outbound.oidc import OpenIdConnect
from authsvc.outbound.proxy import ProxyRules, proxy_rules
from authsvc.outbound.webhook import WebhookChannel
from tests.support.certificates import Authority, write_files
from tests.support.clock import FakeClock
from tests.support.connect_proxy import ConnectProxy, proxying
from tests.support.logs import caught
from tests.support.oidc_client import ADA
from tests.support.provider import (
    CLIENT_SECRET,
    REDIRECT,
    LocalProvider,
    json_client,
    saying,
    serving,
)
from tests.support.rendered import rendered

# Only the proxy can resolve it.
HOST = "id.authsvc-tests.invalid"
METADATA_SERVICE = "169.254.169.254"
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with caught() as stream:
        yield stream


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[ConnectProxy]:
    async with proxying() as proxy:
        yield proxy


def _context(folder: Path, authority: Authority, host: str) -> ssl.SSLContext:
    files = write_files(folder, authority.certificate, authority.issue(x509.DNSName(host)))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate_file, files.key_file)
    return tls


@pytest.fixture
def ca_file(tmp_path: Path, authority: Authority) -> Path:
    path = tmp_path / "trusted.crt"
    path.write_bytes(authority.certificate)
    return path


@pytest_asyncio.fixture
async def remote(
    tmp_path: Path, authority: Authority, clock: FakeClock, proxy: ConnectProxy
) -> AsyncIterator[LocalProvider]:
    """A provider over TLS that only the proxy reaches, under its name."""
    async with serving(LocalProvider(clock), _context(tmp_path, authority, HOST)) as provider:
        proxy.hosts[HOST] = int(provider.address.rpartition(":")[2])
        provider.address = f"https://{HOST}"
        yield provider


class Client:
    """The service's side, through the proxy."""

    def __init__(
        self, provider: LocalProvider, http: aiohttp.ClientSession, ca_file: Path, proxy: str
    ) -> None:
        client = json_client(http, ca_file=ca_file, proxies=ProxyRules({"https": proxy}))
        self.provider = provider
        self.oidc = OpenIdConnect(provider.settings(), client, FakeClock())

    async def log_in(self) -> Any:
        login = PendingLogin.new("local", REDIRECT, None)
        page = await self.oidc.authorization_url(
            login.state, login.nonce, login.code_challenge, login.redirect_uri
        )
        code, _ = self.provider.log_in(page)
        answer = AuthorizationAnswer(code)
        return await self.oidc.identify(answer, login.verifier, login.nonce, REDIRECT)


@pytest.fixture
def client(
    remote: LocalProvider, http: aiohttp.ClientSession, ca_file: Path, proxy: ConnectProxy
) -> Client:
    return Client(remote, http, ca_file, proxy.address)


async def test_provider_is_reached_through_tunnel_that_reveals_nothing(
    client: Client, proxy: ConnectProxy
) -> None:
    assert await client.log_in() == ADA
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}
    seen = bytes(proxy.sent) + "".join(proxy.heads).encode()
    assert len(proxy.sent) > 0
    for secret in (b"code_verifier", b"Authorization: Basic", CLIENT_SECRET.encode(), b"/token"):
        assert secret not in seen


async def test_proxy_that_answers_for_the_provider_is_not_believed(
    client: Client,
    proxy: ConnectProxy,
    remote: LocalProvider,
    tmp_path: Path,
    clock: FakeClock,
    authority: Authority,
    lines: io.StringIO,
) -> None:
    folder = tmp_path / "impostor"
    folder.mkdir()
    for issuer, host in ((Authority("Another"), HOST), (authority, "other.invalid")):
        async with serving(LocalProvider(clock), _context(folder, issuer, host)) as impostor:
            proxy.hosts[HOST] = int(impostor.address.rpartition(":")[2])
            with pytest.raises(ProviderMisconfigured):
                await client.log_in()
            assert impostor.asked == []
        event = json.loads(lines.getvalue().splitlines()[-1])
        assert (event["event"], event["error"]) == ("provider_misconfigured", "certificate")
        assert "ca_file" in event["mend"]
        assert "certificate" in event["problem"] or "ostname" in event["problem"]
    assert remote.asked == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed_through_proxy(
    status: int, client: Client, proxy: ConnectProxy, remote: LocalProvider
) -> None:
    where = f"https://{METADATA_SERVICE}/latest/meta-data"
    for path in (DISCOVERY, "/jwks", "/token"):
        remote.answers = {path: saying("{}", status, location=where)}
        with pytest.raises(ProviderMisconfigured):
            await client.log_in()
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_unsafe_endpoint_is_not_asked_through_proxy(
    name: str, client: Client, proxy: ConnectProxy, remote: LocalProvider
) -> None:
    remote.document[name] = f"http://{METADATA_SERVICE}/latest/meta-data"
    with pytest.raises(ProviderMisconfigured):
        await client.log_in()
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}


def _refusal(status: str, body: str = "{}") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Location: https://{METADATA_SERVICE}/\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


REFUSALS: Mapping[str, type[Exception]] = {
    "407 Proxy Authentication Required": ProviderMisconfigured,
    "403 Forbidden": ProviderMisconfigured,
    "302 Found": ProviderMisconfigured,
    "502 Bad Gateway": ProviderUnavailable,
    "503 Service Unavailable": ProviderUnavailable,
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_answer_of_proxy_is_not_taken_for_the_providers(
    status: str, client: Client, proxy: ConnectProxy, remote: LocalProvider, lines: io.StringIO
) -> None:
    body = json.dumps({"issuer": remote.address, "jwks_uri": f"{remote.address}/jwks"})
    proxy.refusal = _refusal(status, body)
    with pytest.raises(REFUSALS[status]):
        await client.log_in()
    assert proxy.asked == [f"CONNECT {HOST}:443"]
    (event,) = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (event["error"], event["status"]) == ("proxy", int(status[:3]))
    assert ("outbound.proxy" in event.get("mend", "")) == (not status.startswith("5"))


async def test_password_of_proxy_reaches_only_the_proxy(
    remote: LocalProvider,
    http: aiohttp.ClientSession,
    ca_file: Path,
    proxy: ConnectProxy,
    lines: io.StringIO,
) -> None:
    url = proxy.address.replace("//", "//ada:what%20nobody%20reads@")
    client = Client(remote, http, ca_file, url)
    assert await client.log_in() == ADA
    credentials = "Proxy-Authorization: Basic YWRhOndoYXQgbm9ib2R5IHJlYWRz"
    assert all(credentials in head for head in proxy.heads)
    assert all("Proxy-Authorization" not in headers for headers in remote.headers)
    proxy.refusal = _refusal("407 Proxy Authentication Required")
    async with open_session() as other:
        with pytest.raises(ProviderMisconfigured):
            await Client(remote, other, ca_file, url).log_in()
    assert "nobody" not in lines.getvalue()


@pytest.mark.slow
async def test_silent_or_absent_proxy_makes_provider_unavailable(
    remote: LocalProvider, http: aiohttp.ClientSession, proxy: ConnectProxy
) -> None:
    proxy.silent = True
    client = json_client(http, 0.3, proxies=ProxyRules({"https": proxy.address}))
    with pytest.raises(ProviderUnavailable):
        await client.get(remote.address)
    async with proxying() as gone:
        address = gone.address
    client = json_client(http, proxies=ProxyRules({"https": address}))
    with pytest.raises(ProviderUnavailable):
        await client.get(remote.address)


async def test_plain_http_takes_only_a_proxy_on_this_machine(
    provider: LocalProvider, http: aiohttp.ClientSession, proxy: ConnectProxy
) -> None:
    url = f"{provider.address}{DISCOVERY}"
    local = json_client(http, proxies=ProxyRules({"http": proxy.address}))
    assert (await local.get(url)).status == 200
    assert proxy.asked == [f"GET {url}"]
    # Nothing answers there: a request that took this proxy would fail.
    remote = json_client(http, proxies=ProxyRules({"http": f"http://{HOST}:3128"}))
    assert (await remote.get(url)).status == 200


def _channel(ca_file: Path, proxies: ProxyRules) -> WebhookChannel:
    secret = "whsec_" + "A" * 32
    settings = {"url": f"https://{HOST}/hook", "secrets": [secret], "ca_file": ca_file}
    return WebhookChannel(WebhookSettings.model_validate(settings), proxies, FakeClock())


async def _failure(channel: WebhookChannel) -> NotDelivered:
    with pytest.raises(NotDelivered) as error:
        await channel.send(rendered())
    await channel.close()
    return error.value


async def test_web_hook_is_reached_through_proxy(
    remote: LocalProvider, proxy: ConnectProxy, ca_file: Path
) -> None:
    rules = ProxyRules({"https": proxy.address})
    remote.answers["/hook"] = saying("", 204)
    channel = _channel(ca_file, rules)
    await channel.send(rendered())
    await channel.close()
    assert proxy.asked == [f"CONNECT {HOST}:443"]
    assert remote.asked == ["/hook"]
    assert b"/hook" not in proxy.sent
    remote.answers["/hook"] = saying("", 307, location=f"https://{METADATA_SERVICE}/")
    assert (await _failure(_channel(ca_file, rules))).error == "status_307"
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}
    # Without the proxy, the name can't be resolved.
    exempt = ProxyRules({"https": proxy.address}, [HOST])
    assert (await _failure(_channel(ca_file, exempt))).error == "connection"


async def test_web_hook_tells_faults_of_the_proxy_apart(
    remote: LocalProvider, proxy: ConnectProxy, ca_file: Path, tmp_path: Path
) -> None:
    rules = ProxyRules({"https": proxy.address})
    stranger = tmp_path / "stranger.crt"
    stranger.write_bytes(Authority("Another").certificate)
    assert (await _failure(_channel(stranger, rules))).error == "tls"
    proxy.refusal = _refusal("407 Proxy Authentication Required")
    failure = await _failure(_channel(ca_file, rules))
    assert (failure.error, failure.permanent) == ("proxy_status_407", False)
    async with proxying() as gone:
        address = gone.address
    assert (await _failure(_channel(ca_file, ProxyRules({"https": address})))).error == "proxy"
    assert remote.asked == []


PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("exception", "url", "exempt"),
    [
        ("*", "https://id.test/", True),
        ("id.test", "https://id.test/", True),
        ("ID.test", "https://id.TEST./", True),
        ("id.test", "https://a.id.test/", True),
        (".id.test", "https://a.id.test:8443/", True),
        ("*.id.test", "https://a.id.test/", True),
        ("id.test", "https://mid.test/", False),
        ("id.test", "https://id.test.evil.test/", False),
        ("id.test:443", "https://id.test/", True),
        ("id.test:8443", "https://id.test/", False),
        ("id.test:8443", "https://id.test:8443/x", True),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.0/8", "https://id.test/", False),
        ("192.0.2.7", "https://192.0.2.7:8443/", True),
        ("192.0.2.7:8443", "https://192.0.2.7:8443/", True),
        ("192.0.2.7:8443", "https://192.0.2.7/", False),
        ("2001:db8::/32", "https://[2001:db8::1]/", True),
        ("[2001:db8::1]", "https://[2001:db8:0::1]/", True),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]/", False),
        ("2001:db8::1", "https://[2001:db8::2]/", False),
        ("", "https://id.test/", False),
        (".", "https://id.test/", False),
        ("proxy.test", "https://id.test/", False),
    ],
)
def test_exceptions_cover_names_addresses_and_networks(
    exception: str, url: str, exempt: bool
) -> None:
    rules = ProxyRules({"https": PROXY}, ["other.test", exception])
    assert rules.of(url) == (None if exempt else PROXY)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("https", "http", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


def _chosen(url: str = "https://id.test/", **settings: object) -> str | None:
    return proxy_rules(OutboundSettings.model_validate(settings)).of(url)


def test_environment_is_followed_unless_settings_override_it(
    environment: pytest.MonkeyPatch,
) -> None:
    assert _chosen() is None
    assert _chosen(proxy="settings.test:3128") == "http://settings.test:3128"
    environment.setenv("ALL_PROXY", "all.test:1")
    assert _chosen() == "http://all.test:1"
    environment.setenv("HTTPS_PROXY", "http://upper.test:1")
    assert _chosen() == "http://upper.test:1"
    environment.setenv("https_proxy", "http://lower.test:1")
    assert _chosen() == "http://lower.test:1"
    environment.setenv("HTTP_PROXY", "http://127.0.0.1:2")
    assert _chosen("http://localhost:8080/") == "http://127.0.0.1:2"
    assert _chosen(proxy="http://a:b@settings.test") == "http://a:b@settings.test"
    assert _chosen(proxy="none") is None
    environment.setenv("NO_PROXY", "other.test, id.test")
    assert _chosen() is None
    assert _chosen(no_proxy=[]) == "http://lower.test:1"
    assert _chosen(proxy="settings.test", no_proxy=["id.test"]) is None
    assert _chosen(proxy="settings.test") is None


@pytest.mark.parametrize(
    "proxy",
    ["socks5://p.test:1", "https://p.test", "http://", "p.test:x", "http://p.test/path", ""],
)
def test_other_than_http_proxies_are_rejected(proxy: str, environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="expected an HTTP proxy") as error:
        OutboundSettings.model_validate({"proxy": proxy})
    assert "p.test" not in str(error.value.errors()[0]["msg"])
    if proxy:
        environment.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(ConfigError, match="environment variable https_proxy: expected"):
            proxy_rules(OutboundSettings())


def test_password_of_proxy_is_hidden() -> None:
    settings = OutboundSettings.model_validate({"proxy": "http://ada:secret@p.test:3128"})
    assert "secret" not in repr(settings) + str(settings) + settings.model_dump_json()
