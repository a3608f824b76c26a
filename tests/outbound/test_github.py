"""Logins at GitHub, over real HTTP: what its answers mean, and what is asked."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.core.federation.states import PendingLogin
from authsvc.errors import (
    FailedPrecondition,
    ProviderMisconfigured,
    ProviderUnavailable,
    Reason,
    Unauthenticated,
)
from authsvc.outbound.github import GitHub
from tests.support.provider import CLIENT_ID, REDIRECT, LocalProvider, json_client, saying

TOKEN = "/login/oauth/access_token"


@pytest.fixture
def github(provider: LocalProvider, http: aiohttp.ClientSession) -> GitHub:
    return GitHub(provider.settings("github"), json_client(http))


@pytest.fixture
def login() -> PendingLogin:
    return PendingLogin.new("github", REDIRECT, None)


async def page(github: GitHub, login: PendingLogin) -> str:
    return await github.authorization_url(
        login.state, login.nonce, login.code_challenge, login.redirect_uri
    )


async def identify(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> ExternalIdentity:
    code, _ = provider.log_in(await page(github, login))
    return await github.identify(
        AuthorizationAnswer(code), login.verifier, login.nonce, login.redirect_uri
    )


async def test_authorization_url_contains_parameters(
    github: GitHub, login: PendingLogin, provider: LocalProvider
) -> None:
    parts = urlsplit(await page(github, login))
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == (
        f"{provider.address}/login/oauth/authorize"
    )
    assert parse_qs(parts.query) == {
        "client_id": [CLIENT_ID],
        "redirect_uri": [REDIRECT],
        "scope": ["read:user user:email"],
        "state": [login.state],
        "code_challenge": [login.code_challenge],
        "code_challenge_method": ["S256"],
    }
    assert login.verifier not in parts.query


async def test_user_is_identified(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    found = await identify(github, provider, login)
    assert found == ExternalIdentity("1815", "ada@example.test", True, "Ada")
    assert provider.asked == [TOKEN, "/api/user", "/api/user/emails"]


@pytest.mark.slow
async def test_user_without_name_is_called_by_login(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.user["name"] = None
    assert (await identify(github, provider, login)).display_name == "ada"


def email(address: Any, *, primary: Any = True, verified: Any = True) -> Mapping[str, Any]:
    return {"email": address, "primary": primary, "verified": verified}


ADA = "ada@example.test"
NO_ADDRESS: Mapping[str, Any] = {
    "none": [],
    "not verified": [email(ADA, verified=False)],
    "not primary": [email(ADA, primary=False)],
    "two primary ones": [email(ADA), email("b@example.test")],
    "verified by a word": [email(ADA, verified="true")],
    "verified by a number": [email(ADA, verified=1)],
    "verified in part": [email(ADA, verified=False), email("b@example.test", primary=False)],
    "no text": [email(7)],
    "nothing": [email(None)],
    "nothing known": ["x", {}, None],
    "too long": [email("a" * 250 + "@example.test")],
    "with a line break": [email("ada@example.test\n")],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", NO_ADDRESS)
async def test_only_primary_verified_address_is_used(
    case: str, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.emails = NO_ADDRESS[case]
    found = await identify(github, provider, login)
    assert (found.subject, found.email, found.email_verified) == ("1815", "", False)


@pytest.mark.parametrize("status", [403, 404])
async def test_inaccessible_addresses_leave_email_unverified(
    status: int, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.answers["/api/user/emails"] = saying('{"message": "no"}', status)
    assert not (await identify(github, provider, login)).email_verified


@pytest.mark.parametrize("error", ["bad_verification_code", "invalid_grant"])
async def test_code_rejected_by_provider_raises_unauthenticated(
    error: str, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    # With the status 200.
    provider.answers[TOKEN] = saying(f'{{"error": "{error}", "error_description": "x"}}')
    with pytest.raises(Unauthenticated):
        await identify(github, provider, login)
    assert provider.asked == [TOKEN]


async def test_code_works_once_with_its_verifier_and_redirect_uri(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    other = PendingLogin.new("github", REDIRECT, None)
    for verifier, redirect_uri in ((other.verifier, REDIRECT), (login.verifier, REDIRECT + "/")):
        code, _ = provider.log_in(await page(github, login))
        with pytest.raises(Unauthenticated):
            await github.identify(AuthorizationAnswer(code), verifier, login.nonce, redirect_uri)
    code, _ = provider.log_in(await page(github, login))
    await github.identify(AuthorizationAnswer(code), login.verifier, login.nonce, REDIRECT)
    with pytest.raises(Unauthenticated):
        await github.identify(AuthorizationAnswer(code), login.verifier, login.nonce, REDIRECT)


FAILING = {
    "token: error page": (TOKEN, saying("<html>", 502)),
    "token: server error": (TOKEN, saying("{}", 500)),
    "token: none": (TOKEN, saying("{}")),
    "token: no text": (TOKEN, saying('{"access_token": 7}')),
    "token: breaks the header": (TOKEN, saying('{"access_token": "a\\r\\nX-A: b"}')),
    "token: no Latin": (TOKEN, saying('{"access_token": "\\u0430"}')),
    "token: half a surrogate pair": (TOKEN, saying('{"access_token": "\\ud800"}')),
    "token: a list": (TOKEN, saying("[]")),
    "user: a list": ("/api/user", saying("[]")),
    "user: without id": ("/api/user", saying('{"name": "Ada"}')),
    "user: id is text": ("/api/user", saying('{"id": "1815"}')),
    "user: id is true": ("/api/user", saying('{"id": true}')),
    "user: id is null": ("/api/user", saying('{"id": null}')),
    "user: id is a fraction": ("/api/user", saying('{"id": 1.5}')),
    "user: id is endless": ("/api/user", saying('{"id": %s}' % ("9" * 3_000))),
    "emails: server error": ("/api/user/emails", saying("[]", 500)),
    "emails: an object": ("/api/user/emails", saying("{}")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FAILING)
async def test_failing_provider_raises_provider_unavailable(
    case: str, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    path, handler = FAILING[case]
    provider.answers[path] = handler
    with pytest.raises(ProviderUnavailable):
        await identify(github, provider, login)


async def test_display_name_is_sanitized(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.user["name"] = "A\0d\ud800a\n" + "é" * 200
    name = (await identify(github, provider, login)).display_name
    assert name.startswith("Adaéé")
    assert len(name.encode()) == 255
    provider.user["name"] = ["no", "text"]
    assert (await identify(github, provider, login)).display_name == ""


PERMANENT = {
    "wrong secret": (TOKEN, saying('{"error": "incorrect_client_credentials"}')),
    "wrong redirect URI": (TOKEN, saying('{"error": "redirect_uri_mismatch"}')),
    "suspended": (TOKEN, saying('{"error": "application_suspended"}')),
    "unknown client": (TOKEN, saying('{"error": "Not Found"}', 404)),
    "user: not found": ("/api/user", saying('{"message": "Not Found"}', 404)),
    "user: not authorized": ("/api/user", saying('{"message": "Bad credentials"}', 401)),
}


@pytest.mark.parametrize("case", PERMANENT)
async def test_permanent_fault_is_told_apart(
    case: str, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    path, handler = PERMANENT[case]
    provider.answers[path] = handler
    with pytest.raises(ProviderMisconfigured):
        await identify(github, provider, login)


async def test_user_without_any_verified_address_is_told_so(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.answers[TOKEN] = saying('{"error": "unverified_user_email"}')
    with pytest.raises(FailedPrecondition) as error:
        await identify(github, provider, login)
    assert error.value.reason is Reason.EMAIL_NOT_VERIFIED


@pytest.mark.parametrize("place", [0, 29, 30, 99, 100, 250])
async def test_all_pages_of_addresses_are_read(
    place: int, github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    provider.emails = [email(f"{n}@example.test", primary=False) for n in range(251)]
    provider.emails[place] = email(ADA)
    found = await identify(github, provider, login)
    assert (found.email, found.email_verified) == (ADA, True)
    assert provider.asked.count("/api/user/emails") == place // 100 + 1


async def test_pages_of_addresses_are_bounded(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    page = [email("x@example.test", primary=False)]
    link = f'<{provider.address}/api/elsewhere>; rel="next"'
    provider.answers["/api/user/emails"] = saying(json.dumps(page), link=link)
    assert (await identify(github, provider, login)).email == ""
    assert provider.asked.count("/api/user/emails") == 10
    assert "/api/elsewhere" not in provider.asked


async def test_issuer_of_redirect_is_checked(
    github: GitHub, provider: LocalProvider, login: PendingLogin
) -> None:
    """GitHub sends it without any metadata; older servers don't."""
    for issuer in ("", f"{provider.address}/login/oauth"):
        code, _ = provider.log_in(await page(github, login))
        answer = AuthorizationAnswer(code, issuer)
        found = await github.identify(answer, login.verifier, login.nonce, REDIRECT)
        assert found.subject == "1815"
    provider.asked.clear()
    code, _ = provider.log_in(await page(github, login))
    for issuer in ("https://evil.test", provider.address, f"{provider.address}/login/oauth/"):
        with pytest.raises(Unauthenticated):
            await github.identify(
                AuthorizationAnswer(code, issuer), login.verifier, login.nonce, REDIRECT
            )
    assert provider.asked == []


async def test_check_uses_the_client_and_the_api_without_a_user(
    github: GitHub, provider: LocalProvider
) -> None:
    await github.check()
    assert provider.asked == [TOKEN, "/api/user"]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_check_accepts_an_api_that_asks_for_a_token(
    github: GitHub, provider: LocalProvider, status: int
) -> None:
    provider.answers["/api/user"] = saying('{"message": "Requires authentication"}', status)
    await github.check()


@pytest.mark.parametrize(
    ("path", "answer", "status", "error"),
    [
        (TOKEN, '{"error": "Not Found"}', 404, ProviderMisconfigured),
        (TOKEN, '{"access_token": "a"}', 200, ProviderUnavailable),
        (TOKEN, "<html>", 200, ProviderUnavailable),
        (TOKEN, '{"error": "incorrect_client_credentials"}', 200, ProviderMisconfigured),
        ("/api/user", "<html>", 404, ProviderMisconfigured),
        ("/api/user", "<html>", 403, ProviderMisconfigured),
        ("/api/user", '{"id": 1}', 200, ProviderUnavailable),
        ("/api/user", "[]", 401, ProviderMisconfigured),
    ],
)
async def test_check_refuses_what_is_not_github(
    github: GitHub,
    provider: LocalProvider,
    path: str,
    answer: str,
    status: int,
    error: type[Exception],
) -> None:
    provider.answers[path] = saying(answer, status)
    with pytest.raises(error):
        await github.check()
