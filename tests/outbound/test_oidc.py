"""Logins by OpenID Connect, over real HTTP: what is asked, and what failures mean."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from authsvc.core.federation.providers import ExternalIdentity
from authsvc.core.federation.states import PendingLogin
from authsvc.errors import ProviderUnavailable, Unauthenticated
from tests.support.clock import FakeClock
from tests.support.oidc_client import ADA, Client
from tests.support.provider import (
    CLIENT_ID,
    REDIRECT,
    Handler,
    LocalProvider,
    public,
    saying,
    signing_key,
)

DISCOVERY = "/.well-known/openid-configuration"


async def test_authorization_url_contains_parameters(
    client: Client, provider: LocalProvider
) -> None:
    login = PendingLogin.new("local", REDIRECT, None)
    parts = urlsplit(await client.page(login))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{provider.address}/authorize"
    assert parse_qs(parts.query) == {
        "response_type": ["code"],
        "client_id": [CLIENT_ID],
        "redirect_uri": [REDIRECT],
        "scope": ["openid email profile"],
        "state": [login.state],
        "nonce": [login.nonce],
        "code_challenge": [login.code_challenge],
        "code_challenge_method": ["S256"],
    }


async def test_authorization_endpoint_query_is_kept(
    client: Client, provider: LocalProvider
) -> None:
    provider.document["authorization_endpoint"] = f"{provider.address}/authorize?tenant=1"
    url = await client.page(PendingLogin.new("local", REDIRECT, None))
    assert parse_qs(urlsplit(url).query)["tenant"] == ["1"]


async def test_user_is_identified(client: Client, provider: LocalProvider) -> None:
    assert await client.log_in() == ADA
    assert provider.asked == [DISCOVERY, "/jwks", "/token"]
    assert await client.log_in(sub="b" * 256, name=None, email=None) == ExternalIdentity("b" * 256)


async def test_client_can_authenticate_with_client_secret_post(
    client: Client, provider: LocalProvider
) -> None:
    provider.document["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    assert await client.log_in() == ADA
    assert "Authorization" not in provider.headers[-1]


UNTRUE: Sequence[object] = (False, "true", "True", 1, 1.0, [True], {}, "yes", None)


@pytest.mark.slow
@pytest.mark.parametrize("verified", UNTRUE)
async def test_address_is_verified_only_if_claim_is_literally_true(
    verified: object, client: Client
) -> None:
    found = await client.log_in(email_verified=verified)
    assert (found.email, found.email_verified) == ("ada@example.test", False)


async def test_missing_or_malformed_address_is_not_verified(client: Client) -> None:
    for email in (None, "", 7, ["ada@example.test"], "a\0@example.test", "a" * 300):
        found = await client.log_in(email=email)
        assert (found.email, found.email_verified) == ("", False)


async def test_new_key_is_fetched_once(client: Client, provider: LocalProvider) -> None:
    assert await client.log_in() == ADA
    provider.key = signing_key("provider-2")
    assert await client.refused()
    provider.keys.append(public(provider.key))
    provider.asked.clear()
    assert await client.log_in() == ADA
    assert provider.asked.count("/jwks") == 1
    assert await client.log_in() == ADA
    assert provider.asked.count("/jwks") == 1


async def test_provider_metadata_is_cached_for_an_hour(
    client: Client, provider: LocalProvider, clock: FakeClock
) -> None:
    assert await client.log_in() == ADA
    clock.advance(timedelta(minutes=59))
    assert await client.log_in() == ADA
    assert provider.asked.count(DISCOVERY) == 1
    withdrawn, provider.keys = provider.keys, []
    clock.advance(timedelta(minutes=1))
    # A key that the provider has withdrawn is no longer trusted.
    assert await client.refused()
    provider.keys = withdrawn
    assert await client.log_in() == ADA


FAILING: Mapping[str, tuple[str, Handler]] = {
    "discovery: error page": (DISCOVERY, saying("<html>", 502)),
    "discovery: a list": (DISCOVERY, saying("[]")),
    "discovery: empty": (DISCOVERY, saying("{}")),
    "keys: not found": ("/jwks", saying("{}", 404)),
    "keys: none": ("/jwks", saying("{}")),
    "keys: no list": ("/jwks", saying('{"keys": {}}')),
    "token: error page": ("/token", saying("<html>", 502)),
    "token: server error": ("/token", saying("{}", 500)),
    "token: fault of the settings": ("/token", saying('{"error": "invalid_client"}', 401)),
    "token: another error": ("/token", saying('{"error": "invalid_request"}', 400)),
    "token: error and 200": ("/token", saying('{"error": "invalid_grant"}')),
    "token: error is a list": ("/token", saying('{"error": ["invalid_grant"]}', 400)),
    "token: a list": ("/token", saying('["error"]', 400)),
    "token: none": ("/token", saying('{"access_token": "x"}')),
    "token: no text": ("/token", saying('{"id_token": 7}')),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FAILING)
async def test_failing_provider_raises_provider_unavailable(
    case: str, client: Client, provider: LocalProvider
) -> None:
    path, handler = FAILING[case]
    provider.answers[path] = handler
    with pytest.raises(ProviderUnavailable):
        await client.log_in()
    del provider.answers[path]
    assert await client.log_in() == ADA


async def test_code_rejected_by_provider_raises_unauthenticated(
    client: Client, provider: LocalProvider
) -> None:
    provider.answers["/token"] = saying('{"error": "invalid_grant"}', 400)
    assert await client.refused()


async def test_code_works_only_with_its_verifier(client: Client, provider: LocalProvider) -> None:
    login, other = (PendingLogin.new("local", REDIRECT, None) for _ in range(2))
    code, _ = provider.log_in(await client.page(login))
    with pytest.raises(Unauthenticated):
        await client.oidc.identify(code, other.verifier, login.nonce, REDIRECT)


ELSEWHERE = (
    "http://elsewhere.test/x",
    "//elsewhere.test/x",
    "ftp://elsewhere.test/x",
    "file:///etc/passwd",
    "/x",
    "",
    7,
    None,
    ["https://elsewhere.test/x"],
)


@pytest.mark.slow
@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_unsafe_endpoint_urls_are_rejected(
    name: str, address: object, client: Client, provider: LocalProvider
) -> None:
    provider.document[name] = address
    with pytest.raises(ProviderUnavailable):
        await client.log_in()
    assert "/token" not in provider.asked


@pytest.mark.parametrize("suffix", ["/", "/x", "?", None])
async def test_discovery_with_wrong_issuer_is_rejected(
    suffix: str | None, client: Client, provider: LocalProvider
) -> None:
    provider.document["issuer"] = provider.address + suffix if suffix else None
    with pytest.raises(ProviderUnavailable):
        await client.log_in()
    assert provider.asked == [DISCOVERY]
