"""The provider for development, called as the service calls any provider."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from authsvc.config import ConfigError, ProviderSettings, load
from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.core.federation.states import PendingLogin
from authsvc.core.lib.clock import SystemClock
from authsvc.dev.provider import DevProvider
from authsvc.dev.workspace import PROVIDER_CLIENT, REDIRECT_URI, Workspace
from authsvc.errors import ProviderMisconfigured, Unauthenticated
from authsvc.outbound.oidc import OpenIdConnect
from tests.support.provider import json_client

SECRET = "the-secret-of-the-client"


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    """The address that the provider listens on."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    runner = web.AppRunner(DevProvider(url, SECRET).app(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield url
    await runner.cleanup()


def client(address: str, http: aiohttp.ClientSession, secret: str = SECRET) -> OpenIdConnect:
    settings = ProviderSettings(
        kind="oidc",
        client_id=PROVIDER_CLIENT,
        client_secret=SecretStr(secret),
        address=address,
    )
    return OpenIdConnect(settings, json_client(http), SystemClock())


def login() -> PendingLogin:
    return PendingLogin.new("local", REDIRECT_URI, None)


async def page(oidc: OpenIdConnect, login: PendingLogin) -> str:
    return await oidc.authorization_url(
        login.state, login.nonce, login.code_challenge, login.redirect_uri
    )


async def code(url: str, **form: str) -> str:
    """Fill in a page's form; return the code in the redirect."""
    async with aiohttp.ClientSession() as browser:
        async with browser.get(url) as shown:
            assert "Who are you?" in await shown.text()
        async with browser.post(url, data=form, allow_redirects=False) as sent:
            back = urlsplit(sent.headers["Location"])
    assert back.geturl().startswith(f"{REDIRECT_URI}?")
    return parse_qs(back.query)["code"][0]


async def test_user_can_claim_any_identity(address: str, http: aiohttp.ClientSession) -> None:
    oidc, seen = client(address, http), []
    for form in (
        {"email": "ada@example.com", "name": "Ada"},
        {"email": "ada@example.com", "name": "Ada"},
        {"email": "mary@example.com", "name": "Mary", "subject": "m"},
    ):
        begun = login()
        back = await code(await page(oidc, begun), **form)
        seen.append(
            await oidc.identify(
                AuthorizationAnswer(back, address), begun.verifier, begun.nonce, REDIRECT_URI
            )
        )
    assert seen[0] == seen[1]
    assert seen[0].email_verified
    assert seen[2] == ExternalIdentity("m", "mary@example.com", True, "Mary")


@pytest.mark.slow
async def test_provider_enforces_pkce_redirect_and_secret(
    address: str, http: aiohttp.ClientSession
) -> None:
    oidc = client(address, http)
    begun, other = login(), login()
    for verifier, redirect_uri in (
        (other.verifier, REDIRECT_URI),
        (begun.verifier, f"{REDIRECT_URI}/"),
    ):
        back = await code(await page(oidc, begun), email="ada@example.com")
        with pytest.raises(Unauthenticated):
            await oidc.identify(
                AuthorizationAnswer(back, address), verifier, begun.nonce, redirect_uri
            )
        with pytest.raises(Unauthenticated):
            await oidc.identify(
                AuthorizationAnswer(back, address), begun.verifier, begun.nonce, REDIRECT_URI
            )
    back = await code(await page(oidc, begun), email="ada@example.com")
    with pytest.raises(ProviderMisconfigured):
        await client(address, http, "another").identify(
            AuthorizationAnswer(back, address), begun.verifier, begun.nonce, REDIRECT_URI
        )


async def test_invalid_authorization_requests_are_rejected(
    address: str, http: aiohttp.ClientSession
) -> None:
    url = await page(client(address, http), login())
    for good, bad in (
        ("client_id=authsvc-dev", "client_id=x"),
        ("localhost%3A8080", "evil.test"),
        ("response_type=code", "response_type=token"),
        ("code_challenge_method=S256", "code_challenge_method=plain"),
        ("code_challenge=", "x="),
    ):
        assert good in url
        for method in ("GET", "POST"):
            async with http.request(method, url.replace(good, bad)) as answer:
                assert answer.status == 400


@pytest.mark.slow
def test_provider_ends_with_its_parent_process(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    process = subprocess.run(
        [sys.executable, "-m", "authsvc.dev.provider", str(secret)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A provider of another test may occupy the port.
    assert process.stdout == "ready\n" or "8090: " in process.stderr, process


def test_new_workspace_configures_provider(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "state")
    workspace.prepare()
    workspace.set_database("postgresql://localhost/none")
    settings = load(workspace.config, secrets_dir=workspace.secrets)
    local = settings.oauth.providers["local"]
    assert (local.kind, local.address) == ("oidc", "http://127.0.0.1:8090")
    assert local.client_secret.get_secret_value() == workspace.provider_secret.read_text()
    assert len(local.client_secret.get_secret_value()) >= 43
    assert settings.oauth.redirect_uris == (REDIRECT_URI,)
    kept = workspace.provider_secret.read_text()
    workspace.prepare()
    assert workspace.provider_secret.read_text() == kept
    workspace.provider_secret.unlink()
    with pytest.raises(ConfigError):
        load(workspace.config, secrets_dir=workspace.secrets)
    workspace.prepare()
    load(workspace.config, secrets_dir=workspace.secrets)


def test_existing_settings_are_unchanged(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "state")
    workspace.prepare()
    text = workspace.config.read_text()
    start, end = text.index("[oauth]"), text.index("[[callers]]")
    workspace.config.write_text(text[:start] + text[end:])
    workspace.provider_secret.unlink()
    workspace.prepare()
    workspace.set_database("postgresql://localhost/none")
    assert not workspace.provider_secret.exists()
    assert load(workspace.config, secrets_dir=workspace.secrets).oauth.providers == {}
