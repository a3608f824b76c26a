"""Attacks on logins at other providers: by providers, by browsers and by eavesdroppers."""

import io
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from aiohttp import web

from authsvc.config import Settings
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2 import UnlinkIdentityRequest
from authsvc.v1.session_service_pb2 import RevokeUserSessionsRequest
from tests.security.test_secrets import dump
from tests.support.accounts import EMAIL
from tests.support.clock import FakeClock
from tests.support.leaks import leaks
from tests.support.oauth_requests import begin, came_back, oauth_settings
from tests.support.passkeys import bearer
from tests.support.probe import details_of, failure, outcome
from tests.support.provider import (
    ACCESS_TOKEN,
    CLIENT_SECRET,
    Handler,
    LocalProvider,
    breaking_off,
    browse,
    saying,
    serving,
)
from tests.support.service import Service, StartService

DISCOVERY = "/.well-known/openid-configuration"
GITHUB_TOKEN = "/login/oauth/access_token"
MARK = "what-the-provider-says-0815"


@pytest_asyncio.fixture
async def service(
    lines: io.StringIO,
    start_service: StartService,
    live_settings: Settings,
    provider: LocalProvider,
    clock: FakeClock,
) -> Service:
    """A service with the provider configured under both of its kinds."""
    settings = live_settings.model_copy(update={"oauth": oauth_settings(provider)})
    return await start_service(settings, clock)


async def counted(service: Service) -> dict[str, int]:
    tables = ("users", "identities", "sessions", "oauth_states", "outbox")
    query = "SELECT " + ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in tables)
    return dict((await service.fetch(query))[0])


BODIES: Mapping[str, Handler] = {
    "error page": saying(f"<html>{MARK}</html>", 502, "text/html"),
    "error page with 200": saying(f"<html>{MARK}</html>", 200, "text/html"),
    "huge": saying(f'{{"error": "{MARK}", "x": "{"x" * 5_000_000}"}}'),
    "deep": saying("[" * 100_000),
    "breaks off": breaking_off,
    "redirect": saying("{}", 302, location="http://169.254.169.254/latest/meta-data"),
    "empty": saying(""),
    "null": saying("null"),
    "list": saying(f'["{MARK}"]'),
    "empty object": saying("{}"),
    "error": saying(f'{{"error": "{MARK}", "error_description": "{MARK}"}}'),
    "error and 400": saying(f'{{"error": "{MARK}"}}', 400),
    "error and 401": saying(f'{{"error": "{MARK}"}}', 401),
    "invalid_grant": saying('{"error": "invalid_grant"}', 400),
    "bad code": saying('{"error": "bad_verification_code"}'),
    "numbers": saying('{"id_token": 1, "access_token": 2, "id": "3", "keys": 4, "issuer": 5}'),
    "nothing": saying("{}", 204),
    "server error": saying(f'{{"message": "{MARK}"}}', 500),
    "too many requests": saying(f'{{"message": "{MARK}"}}', 429),
    "surrogates": saying('{"id_token": "\\ud800", "access_token": "\\ud800", "id": "\\ud800"}'),
}
PATHS = {
    "local": (DISCOVERY, "/jwks", "/token", "/userinfo"),
    "github": (GITHUB_TOKEN, "/api/user", "/api/user/emails"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_hostile_provider_response_is_rejected_with_reason(
    case: str, service: Service, provider: LocalProvider, lines: io.StringIO
) -> None:
    provider.claims["email"] = None
    provider.user_info = {"sub": "ada", "email": "ada@example.test", "email_verified": True}
    before = await counted(service)
    for kind, paths in PATHS.items():
        for path in paths:
            provider.answers = {path: BODIES[case]}
            begun = await _try_begin(service, kind)
            if begun is None:
                continue
            code, state = await browse(begun.authorization_url)
            request = pb.CompleteOAuthRequest(state=state, code=code)
            error = await failure(service.auth().CompleteOAuth(request))
            assert details_of(error).message in {
                "The provider did not answer in time or gave an invalid answer.",
                "The provider is not set up correctly; the service's log says what to mend.",
                "The credentials are not valid.",
                "The e-mail address is not verified.",
            }
            assert MARK not in repr(error)
    assert await counted(service) == before
    assert MARK not in lines.getvalue()
    assert "Traceback" not in lines.getvalue()
    provider.answers = {}
    assert await outcome(service.auth().CompleteOAuth(await came_back(service))) == "OK"


async def _try_begin(service: Service, kind: str) -> pb.BeginOAuthResponse | None:
    if kind == "github":
        return await service.auth().BeginOAuth(begin(kind))
    end = await outcome(service.auth().BeginOAuth(begin(kind)))
    if end != "OK":
        assert end in {"PROVIDER_UNAVAILABLE", "PROVIDER_MISCONFIGURED"}
        return None
    await service.fetch("DELETE FROM oauth_states")
    return await service.auth().BeginOAuth(begin(kind))


HOSTILE_CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "SQL": {"sub": "'; DROP TABLE users; --", "name": "'; DROP TABLE users; --"},
    "NUL": {"sub": "a", "name": "a\0b", "email": "a\0@example.test"},
    "surrogates": {"sub": "b", "name": "\ud800", "email": "\udfff@example.test"},
    "objects": {"sub": "c", "name": {"$gt": ""}, "email": {"$gt": ""}},
    "long": {"sub": "d" * 256, "name": "d" * 9_000, "email": "d" * 9_000 + "@example.test"},
    "right to left": {"sub": "e", "name": "\u202euser\u202c"},
    "log lines": {"sub": "f", "name": 'x"}\n{"event": "audit"}'},
    "another's id": {"sub": "00000000-0000-7000-8000-00000000000a"},
    "service's own claims": {"sub": "g", "sid": "x", "roles": ["admin"], "scope": "write"},
}


@pytest.mark.parametrize("case", HOSTILE_CLAIMS)
async def test_hostile_provider_claims_are_treated_as_text(
    case: str, service: Service, provider: LocalProvider
) -> None:
    victim = await service.new_session("victim@example.test")
    claims = {"email": "ada@example.test", **HOSTILE_CLAIMS[case]}
    request = await _came_back_with(service, provider, **claims)
    end = await outcome(service.auth().CompleteOAuth(request))
    assert end in {"OK", "EMAIL_NOT_VERIFIED"}
    rows = await service.fetch("SELECT user_id::text, roles, display_name FROM users")
    for row in rows:
        assert row["roles"] == ["user"]
        assert row["display_name"].isprintable()
        assert len(row["display_name"].encode()) <= 256
    assert victim.user_id in {row["user_id"] for row in rows}
    assert await service.judge_token(victim.access_token, strict=True) == ""


async def _came_back_with(
    service: Service, provider: LocalProvider, **claims: Any
) -> pb.CompleteOAuthRequest:
    begun = await service.auth().BeginOAuth(begin())
    code, state = provider.log_in(begun.authorization_url, **claims)
    return pb.CompleteOAuthRequest(state=state, code=code)


async def test_provider_cannot_impersonate_user_of_another(
    service: Service, provider: LocalProvider
) -> None:
    """Claim at one provider everything that another one says about its user (ASVS 6.8.1)."""
    victim = (await service.auth().CompleteOAuth(await came_back(service, "github"))).tokens
    request = await _came_back_with(service, provider, sub="1815", email="ada@example.test")
    assert await outcome(service.auth().CompleteOAuth(request)) == "LINK_REQUIRES_LOGIN"
    rows = await service.fetch("SELECT provider, user_id::text FROM identities")
    assert [tuple(row) for row in rows] == [("github", victim.user_id)]


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("names_itself", [True, False])
async def test_mixed_up_provider_gets_no_code_of_another(
    announced: bool,
    names_itself: bool,
    start_service: StartService,
    live_settings: Settings,
    provider: LocalProvider,
    clock: FakeClock,
    lines: io.StringIO,
) -> None:
    """A malicious provider sends its visitor on to an honest one (RFC 9207, section 1).

    The user logs in there, and the code comes back with the state of the malicious provider's
    login: it must not be sent to the malicious one, which could redeem it.
    """
    async with serving(LocalProvider(clock)) as evil:
        evil.sends_issuer = provider.sends_issuer = announced
        oauth = oauth_settings(provider)
        providers = {"honest": provider.settings(), "evil": evil.settings()}
        oauth = oauth.model_copy(update={"providers": providers})
        settings = live_settings.model_copy(update={"oauth": oauth})
        service = await start_service(settings, clock)
        begun = await service.auth().BeginOAuth(begin("evil"))
        code, state = await browse(begun.authorization_url.replace(evil.address, provider.address))
        request = pb.CompleteOAuthRequest(state=state, code=code)
        if names_itself:
            request.iss = provider.address
        end = await outcome(service.auth().CompleteOAuth(request))
        received = "/token" in evil.asked
        await service.app.stop()
    if names_itself:
        assert (end, received) == ("CREDENTIALS_INVALID", False)
        assert "provider_mixed_up" in lines.getvalue()
    elif announced:
        # Somebody has cut it off.
        assert (end, received) == ("FIELD_INVALID", False)
        assert "provider_iss_missing" in lines.getvalue()
    else:
        # What can't be prevented if neither provider names itself: the reason for all this.
        assert received


async def test_honest_provider_that_names_itself_is_accepted(
    service: Service, provider: LocalProvider
) -> None:
    provider.sends_issuer = True
    request = await came_back(service)
    assert request.iss == provider.address
    assert await outcome(service.auth().CompleteOAuth(request)) == "OK"


async def test_id_token_of_another_login_is_rejected(
    service: Service, provider: LocalProvider
) -> None:
    kept: list[str] = []

    def keep(claims: dict[str, Any]) -> str:
        kept.append(provider.signed(claims))
        return kept[0]

    provider.sign = keep
    first = await service.auth().CompleteOAuth(await came_back(service))
    end = await outcome(service.auth().CompleteOAuth(await came_back(service)))
    assert end == "CREDENTIALS_INVALID"
    assert len(kept) == 2
    assert await service.list_sessions(first.tokens.user_id) == [first.tokens.session_id]


async def test_link_state_of_revoked_session_is_rejected(
    service: Service, provider: LocalProvider
) -> None:
    mine = await service.new_session("mine@example.test")
    begun = await service.auth().BeginOAuth(begin(link=mine.access_token))
    # The owner notices and ends all sessions before the thief completes the login.
    await service.sessions().RevokeUserSessions(RevokeUserSessionsRequest(user_id=mine.user_id))
    code, state = await browse(begun.authorization_url)
    request = pb.CompleteOAuthRequest(state=state, code=code)
    assert await outcome(service.auth().CompleteOAuth(request)) == "STATE_INVALID"
    assert await service.fetch("SELECT FROM identities") == []


async def test_secrets_shared_with_provider_never_leak(
    service: Service, provider: LocalProvider, lines: io.StringIO
) -> None:
    secrets: dict[str, list[str]] = {
        "client secret": [CLIENT_SECRET],
        "access token": [ACCESS_TOKEN],
    }

    async def note(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        verifiers.append(str(form["code_verifier"]))
        return await provider._token(request)

    verifiers: list[str] = []
    provider.answers["/token"] = note
    signed: list[str] = []

    def sign(claims: dict[str, Any]) -> str:
        signed.append(provider.signed(claims))
        return signed[-1]

    provider.sign = sign
    errors = []
    for round_ in range(3):
        begun = await service.auth().BeginOAuth(begin())
        code, state = await browse(begun.authorization_url)
        query = parse_qs(urlsplit(begun.authorization_url).query)
        secrets |= {f"state {round_}": [state], f"code {round_}": [code]}
        secrets |= {f"nonce {round_}": query["nonce"]}
        if round_ == 2:
            provider.claims["aud"] = "another"
        request = pb.CompleteOAuthRequest(state=state, code=code)
        await outcome(service.auth().CompleteOAuth(request))
        errors.append(repr(await failure(service.auth().CompleteOAuth(request))))
    for number, (verifier, token) in enumerate(zip(verifiers, signed, strict=True)):
        secrets |= {f"verifier {number}": [verifier], f"id_token {number}": token.split(".")[1:]}
    pending = await service.auth().BeginOAuth(begin())
    secrets["pending state"] = [pending.state]
    stored = await dump(service)
    written = "\n".join((lines.getvalue(), *errors))
    assert leaks(written, secrets) == set()
    assert leaks(stored, secrets) == set()
    assert "id_token_refused" in written
    assert "oauth" in written.lower()
    assert EMAIL.lower() in stored.lower()
    assert EMAIL.lower() not in written.lower()
    for name, texts in secrets.items():
        assert name in leaks(f"… {texts[0]} …", secrets)


async def test_audit_events_contain_no_address(service: Service) -> None:
    mine = await service.new_session("mine@example.test")
    await service.auth().CompleteOAuth(await came_back(service, link=mine.access_token))
    await service.account().UnlinkIdentity(
        UnlinkIdentityRequest(provider="local", subject="ada"), metadata=bearer(mine)
    )
    rows = await service.fetch("SELECT type, detail FROM audit_events WHERE type LIKE 'identity%'")
    assert {row["type"]: json.loads(row["detail"]) for row in rows} == {
        "identity.link": {"provider": "local"},
        "identity.unlink": {"provider": "local"},
    }
