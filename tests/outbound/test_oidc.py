"""Logins by OpenID Connect, over real HTTP: what is asked, and what failures mean."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.core.federation.states import PendingLogin
from authsvc.errors import (
    FieldInvalid,
    ProviderMisconfigured,
    ProviderUnavailable,
    Unauthenticated,
)
from tests.support.clock import FakeClock
from tests.support.logs import caught
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
USER_INFO = {"sub": "ada", "email": "ada@example.test", "email_verified": True, "name": "Ada"}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with caught() as stream:
        yield stream


def events(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


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


UNTRUE: Sequence[object] = (False, "false", "True", 1, 1.0, [True], {}, "yes", None)


@pytest.mark.slow
@pytest.mark.parametrize("verified", UNTRUE)
async def test_address_is_verified_only_if_claim_is_true(verified: object, client: Client) -> None:
    found = await client.log_in(email_verified=verified)
    assert (found.email, found.email_verified) == ("ada@example.test", False)


async def test_address_is_verified_by_true_as_text(client: Client) -> None:
    # As Apple and Cognito write it.
    assert await client.log_in(email_verified="true") == ADA


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
    "discovery: error page and 200": (DISCOVERY, saying("<html>", 200, "text/html")),
    "discovery: too many requests": (DISCOVERY, saying("{}", 429)),
    "discovery: a list": (DISCOVERY, saying("[]")),
    "keys: server error": ("/jwks", saying("{}", 500)),
    "keys: none": ("/jwks", saying("{}")),
    "keys: no list": ("/jwks", saying('{"keys": {}}')),
    "token: error page": ("/token", saying("<html>", 502)),
    "token: server error": ("/token", saying("{}", 500)),
    "token: server error as 400": ("/token", saying('{"error": "server_error"}', 400)),
    "token: too early": ("/token", saying("{}", 425)),
    "token: 503 in error": ("/token", saying('{"error": "temporarily_unavailable"}', 503)),
    "user info: error page": ("/userinfo", saying("<html>", 502, "text/html")),
    "user info: error page and 200": ("/userinfo", saying("<html>", 200, "text/html")),
    "user info: too many requests": ("/userinfo", saying("{}", 429)),
    "user info: signed": ("/userinfo", saying("eyJ.eyJ.x", 200, "application/jwt")),
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
    provider.claims["email"] = None
    provider.user_info = USER_INFO
    with pytest.raises(ProviderUnavailable):
        await client.log_in()
    del provider.answers[path]
    assert await client.log_in() == ADA


# What only an operator can mend: the answer, and what the log says about it.
PERMANENT: Mapping[str, tuple[str, Handler, Mapping[str, object]]] = {
    "discovery: not found": (
        DISCOVERY,
        saying("<html>", 404, "text/html"),
        {"status": 404, "mend": "check the provider's address; redirects are not followed"},
    ),
    "discovery: moved": (DISCOVERY, saying("", 301, location="https://x.test/"), {"status": 301}),
    "discovery: empty": (DISCOVERY, saying("{}"), {"event": "issuer_differs", "issuer": "no URL"}),
    "keys: not found": ("/jwks", saying("{}", 404), {"status": 404}),
    "keys: forbidden": ("/jwks", saying("<html>", 403, "text/html"), {"status": 403}),
    "token: unknown client": (
        "/token",
        saying('{"error": "invalid_client"}', 401),
        {
            "status": 401,
            "oauth_error": "invalid_client",
            "mend": "check client_id and client_secret; the secret may have expired",
        },
    ),
    "token: unknown client, Cognito": (
        "/token",
        saying('{"error": "invalid_client"}', 400),
        {"status": 400, "oauth_error": "invalid_client"},
    ),
    "token: wrong secret, Keycloak": (
        "/token",
        saying('{"error": "unauthorized_client", "error_description": "Invalid client"}', 401),
        {"status": 401, "oauth_error": "unauthorized_client"},
    ),
    "token: expired secret, Entra": (
        "/token",
        saying('{"error": "invalid_client", "error_codes": [7000222], "trace_id": "x"}', 401),
        {"status": 401, "oauth_error": "invalid_client"},
    ),
    "token: no OAuth error": ("/token", saying("<html>", 403, "text/html"), {"status": 403}),
    "token: not found": ("/token", saying("<html>", 404, "text/html"), {"status": 404}),
    "token: another error": (
        "/token",
        saying('{"error": "invalid_request"}', 400),
        {"status": 400, "oauth_error": "invalid_request"},
    ),
    "token: error is an object": (
        "/token",
        saying('{"error": {"message": "invalid_grant"}}', 400),
        {"status": 400, "oauth_error": "other"},
    ),
    "token: a list": ("/token", saying('["error"]', 400), {"status": 400}),
    "token: error and 200": (
        "/token",
        saying('{"error": "invalid_client"}'),
        {"status": 200, "oauth_error": "invalid_client"},
    ),
    "user info: moved": ("/userinfo", saying("", 302, location="/login"), {"status": 302}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PERMANENT)
async def test_permanent_fault_is_told_apart_and_logged(
    case: str, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    path, handler, said = PERMANENT[case]
    provider.answers[path] = handler
    provider.claims["email"] = None
    provider.user_info = USER_INFO
    with pytest.raises(ProviderMisconfigured):
        await client.log_in()
    (event,) = events(lines)
    expected: Mapping[str, object] = {
        "event": "provider_misconfigured",
        "level": "error",
        "provider": "local",
    }
    assert event.items() >= {**expected, **said}.items()
    del provider.answers[path]
    assert await client.log_in() == ADA


# What the provider holds against this user's login: the answer at the token endpoint.
REFUSING: Mapping[str, Handler] = {
    "Keycloak, Okta": saying('{"error": "invalid_grant"}', 400),
    "Auth0": saying('{"error": "invalid_grant"}', 403),
    "with 401": saying('{"error": "invalid_grant"}', 401),
    "with 200": saying('{"error": "invalid_grant"}'),
    "Okta's policy": saying('{"error": "access_denied"}', 400),
    "Entra's policy": saying('{"error": "interaction_required", "suberror": "x"}', 400),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSING)
async def test_code_rejected_by_provider_raises_unauthenticated(
    case: str, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    provider.answers["/token"] = REFUSING[case]
    assert await client.refused()
    (event,) = events(lines)
    assert (event["event"], event["level"]) == ("provider_refused_code", "info")
    assert {"provider", "host", "status", "oauth_error"} < event.keys()


async def test_text_of_errors_is_not_logged(
    client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    for error in ("Ada's-secret", "a" * 200, "SECRET", ["secret"], {"secret": 1}):
        body = json.dumps({"error": error, "error_description": "secret", "secret": 1})
        provider.answers["/token"] = saying(body, 400)
        with pytest.raises(ProviderMisconfigured):
            await client.log_in()
    assert {event["oauth_error"] for event in events(lines)} == {"other"}
    assert "secret" not in lines.getvalue().lower().replace("client_secret; the secret", "")


async def test_code_works_only_with_its_verifier(client: Client, provider: LocalProvider) -> None:
    login, other = (PendingLogin.new("local", REDIRECT, None) for _ in range(2))
    code, _ = provider.log_in(await client.page(login))
    with pytest.raises(Unauthenticated):
        await client.oidc.identify(AuthorizationAnswer(code), other.verifier, login.nonce, REDIRECT)


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
@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"]
)
async def test_unsafe_endpoint_urls_are_rejected(
    name: str, address: object, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    provider.document[name] = address
    with pytest.raises(ProviderMisconfigured):
        await client.log_in()
    assert "/token" not in provider.asked
    assert [(event["event"], event["endpoint"]) for event in events(lines)] == [
        ("provider_misconfigured", name)
    ]


@pytest.mark.parametrize("suffix", ["//", "/x", "?", ".evil.test", None])
async def test_discovery_with_wrong_issuer_is_rejected(
    suffix: str | None, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    wrong = provider.address + suffix if suffix else None
    provider.document["issuer"] = wrong
    with pytest.raises(ProviderMisconfigured):
        await client.log_in()
    assert provider.asked == [DISCOVERY]
    (event,) = events(lines)
    assert (event["event"], event["level"]) == ("issuer_differs", "error")
    assert (event["configured"], event["issuer"]) == (provider.address, wrong or "no URL")
    assert event["mend"] == "set address to the provider's issuer"


async def test_template_of_issuer_is_rejected_with_remedy(
    client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    # What Entra's metadata for the users of all tenants contains.
    provider.document["issuer"] = "https://login.microsoftonline.com/{tenantid}/v2.0"
    with pytest.raises(ProviderMisconfigured):
        await client.log_in()
    (event,) = events(lines)
    assert event["issuer"] == "https://login.microsoftonline.com/{tenantid}/v2.0"
    assert "https://login.microsoftonline.com/TENANT-ID/v2.0" in event["mend"]


@pytest.mark.parametrize(("configured", "actual"), [("", "/"), ("/", "")])
async def test_slash_at_end_of_issuer_does_not_matter(
    configured: str,
    actual: str,
    provider: LocalProvider,
    http: aiohttp.ClientSession,
    clock: FakeClock,
) -> None:
    provider.issuer = provider.address + actual
    client = Client(provider, http, clock, address=provider.address + configured)
    assert await client.log_in() == ADA
    # The provider's own spelling is the one that id_tokens must have.
    assert await client.refused(iss=provider.address + configured)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("issuer", "accepted"),
    [(0, True), ("https://evil.test", False), ("HTTP", False), ("/", False), (" ", False)],
)
async def test_issuer_of_redirect_is_checked(
    issuer: object, accepted: bool, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    for provider.sends_issuer in (False, True):
        client.iss = str(issuer).replace("0", provider.address)
        if accepted:
            assert await client.log_in() == ADA
        else:
            assert await client.refused()
            assert events(lines)[-1]["event"] == "provider_mixed_up"
    assert ("/token" in provider.asked) == accepted


async def test_redirect_without_issuer_is_rejected_if_provider_sends_it(
    http: aiohttp.ClientSession, provider: LocalProvider, clock: FakeClock
) -> None:
    assert await Client(provider, http, clock).log_in() == ADA
    provider.sends_issuer = True
    provider.asked.clear()
    with pytest.raises(FieldInvalid) as error:
        await Client(provider, http, clock).log_in()
    assert [violation.field for violation in error.value.violations] == ["iss"]
    assert provider.asked == [DISCOVERY, "/jwks"]


async def test_address_comes_from_user_info_if_id_token_has_none(
    client: Client, provider: LocalProvider
) -> None:
    provider.user_info = USER_INFO | {"email": "other@example.test"}
    assert await client.log_in() == ADA
    assert "/userinfo" not in provider.asked
    provider.claims |= {"email": None, "email_verified": True, "name": None}
    assert await client.log_in() == replace(ADA, email="other@example.test")
    # As Cognito writes it.
    provider.user_info = USER_INFO | {"email_verified": "true"}
    assert await client.log_in() == ADA
    # Whether it is verified comes from the same source.
    provider.user_info = {"sub": "ada", "email": "other@example.test"}
    found = await client.log_in()
    assert (found.email, found.email_verified) == ("other@example.test", False)


@pytest.mark.parametrize("subject", ["eve", None, 7])
async def test_user_info_of_another_user_is_rejected(
    subject: object, client: Client, provider: LocalProvider
) -> None:
    provider.claims["email"] = None
    provider.user_info = USER_INFO | {"sub": subject}
    assert await client.refused()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_unreadable_user_info_leaves_email_unverified(
    status: int, client: Client, provider: LocalProvider, lines: io.StringIO
) -> None:
    provider.claims["email"] = None
    provider.user_info = USER_INFO
    provider.answers["/userinfo"] = saying("<html>", status, "text/html")
    found = await client.log_in()
    assert (found.subject, found.email, found.email_verified) == ("ada", "", False)
    assert events(lines)[-1]["event"] == "provider_user_info_not_readable"


async def test_unmarked_address_is_trusted_only_by_setting(
    client: Client, provider: LocalProvider, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    # As Entra writes it.
    found = await client.log_in(email_verified=None)
    assert (found.email_verified, found.missing) == (False, "email_verified is absent")
    trusting = Client(provider, http, clock, trust_unmarked_email=True)
    assert await trusting.log_in(email_verified=None) == ADA
    assert not (await trusting.log_in(email_verified=None, email=None)).email_verified
    for untrue in (False, "false", 0, "yes"):
        assert not (await trusting.log_in(email_verified=untrue)).email_verified


async def test_scopes_and_response_mode_are_configurable(
    provider: LocalProvider, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    # As Apple wants them.
    scopes = ("openid", "email", "name")
    client = Client(provider, http, clock, scopes=scopes, response_mode="form_post")
    query = parse_qs(urlsplit(await client.page(PendingLogin.new("local", REDIRECT, None))).query)
    assert (query["scope"], query["response_mode"]) == (["openid email name"], ["form_post"])


async def test_expired_metadata_is_not_used_while_provider_fails(
    client: Client, provider: LocalProvider, clock: FakeClock
) -> None:
    assert await client.log_in() == ADA
    clock.advance(timedelta(hours=1))
    provider.answers[DISCOVERY] = saying("<html>", 503, "text/html")
    with pytest.raises(ProviderUnavailable):
        await client.log_in()
    del provider.answers[DISCOVERY]
    assert await client.log_in() == ADA


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_check_finds_a_client_that_is_refused(
    http: aiohttp.ClientSession, provider: LocalProvider, clock: FakeClock, method: str
) -> None:
    provider.document["token_endpoint_auth_methods_supported"] = [method]
    await Client(provider, http, clock).oidc.check()
    with pytest.raises(ProviderMisconfigured):
        await Client(provider, http, clock, client_secret="expired").oidc.check()


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        ('{"error": "unauthorized_client"}', 400, ProviderMisconfigured),
        ("<html>", 502, ProviderUnavailable),
        ('{"error": "invalid_request"}', 400, None),
        ("<html>", 400, None),
    ],
)
async def test_check_leaves_it_to_the_provider_how_a_code_is_refused(
    client: Client,
    provider: LocalProvider,
    answer: str,
    status: int,
    error: type[Exception] | None,
) -> None:
    provider.answers["/token"] = saying(answer, status)
    with pytest.raises(error) if error else nullcontext():
        await client.oidc.check()
