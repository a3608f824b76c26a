"""Logins at external providers from a calling service's side, with a provider over real HTTP."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RetryInfo
from pydantic import SecretStr

from authsvc.config import Settings
from authsvc.models.ids import FactorId
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2 import ConfirmTotpRequest, EnrollTotpRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL
from tests.support.clock import FakeClock
from tests.support.connect_proxy import proxying
from tests.support.factors import App
from tests.support.logs import caught
from tests.support.oauth_requests import begin, came_back, oauth_settings
from tests.support.passkeys import bearer
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.provider import REDIRECT, LocalProvider, breaking_off, browse, saying
from tests.support.service import Service, StartService, detail, fields_of

KINDS = ("local", "github")


@pytest.fixture
def oauth(live_settings: Settings, provider: LocalProvider) -> Settings:
    """Settings with the provider."""
    return live_settings.model_copy(update={"oauth": oauth_settings(provider)})


@pytest_asyncio.fixture
async def linked(start_service: StartService, oauth: Settings, clock: FakeClock) -> Service:
    """A service with the provider, as OpenID Connect and as GitHub."""
    return await start_service(oauth, clock)


async def complete(service: Service, request: pb.CompleteOAuthRequest) -> pb.CompleteOAuthResponse:
    return await service.auth().CompleteOAuth(request)


async def tries(service: Service, provider: str = "local") -> str:
    """Log in; return the outcome."""
    return await outcome(complete(service, await came_back(service, provider)))


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
async def test_login_completes(kind: str, linked: Service) -> None:
    first = await complete(linked, await came_back(linked, kind))
    assert first.new_user
    assert await linked.judge_token(first.tokens.access_token) == ""
    assert await linked.judge_session(first.tokens.session_token) == ""
    session = await linked.get_session(first.tokens.session_id)
    assert list(session.authentication_methods) == ["fed"]
    assert (session.ip, session.device_id) == ("192.0.2.1", "phone")
    second = await complete(linked, await came_back(linked, kind))
    assert not second.new_user
    assert second.tokens.user_id == first.tokens.user_id
    assert second.tokens.session_id != first.tokens.session_id
    # The same person at another provider has to link the identity first.
    other = KINDS[1 - KINDS.index(kind)]
    error = await failure(complete(linked, await came_back(linked, other)))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LINK_REQUIRES_LOGIN",
    )


@pytest.mark.fast
async def test_identity_is_linked(linked: Service) -> None:
    mine = await linked.new_session("b@example.test")
    request = await came_back(linked, link=mine.access_token)
    answer = await complete(linked, request)
    assert (answer.tokens.user_id, answer.new_user) == (mine.user_id, False)
    assert (await complete(linked, await came_back(linked))).tokens.user_id == mine.user_id


async def test_second_factor_is_required(linked: Service, clock: FakeClock) -> None:
    tokens = (await complete(linked, await came_back(linked))).tokens
    account, metadata = linked.account(), bearer(tokens)
    enrolled = await account.EnrollTotp(EnrollTotpRequest(), metadata=metadata)
    factor_id = enrolled.enrollment.factor_id
    app = App(FactorId(UUID(factor_id)), enrolled.enrollment.secret, clock)
    await account.ConfirmTotp(
        ConfirmTotpRequest(factor_id=factor_id, code=app.code()), metadata=metadata
    )
    clock.advance(30)
    answer = await complete(linked, await came_back(linked))
    assert answer.WhichOneof("result") == "mfa"
    assert "totp" in answer.mfa.methods
    verified = await linked.auth().VerifyMfa(
        pb.VerifyMfaRequest(mfa_token=answer.mfa.mfa_token, totp_code=app.code())
    )
    assert verified.tokens.user_id == tokens.user_id
    session = await linked.get_session(verified.tokens.session_id)
    assert set(session.authentication_methods) == {"fed", "otp", "mfa"}


async def test_hundred_concurrent_completions_log_in_once(
    linked: Service, start_service: StartService, oauth: Settings, clock: FakeClock
) -> None:
    replica = await start_service(oauth, clock)
    request = await came_back(linked)
    ends = await asyncio.gather(
        *(outcome(complete((linked, replica)[n % 2], request)) for n in range(100))
    )
    assert Counter(ends) == {"OK": 1, "STATE_INVALID": 99}
    assert len(await linked.fetch("SELECT FROM users")) == 1
    assert len(await linked.fetch("SELECT FROM sessions")) == 1


async def test_login_can_be_completed_on_another_replica(
    linked: Service, start_service: StartService, oauth: Settings, clock: FakeClock
) -> None:
    replica = await start_service(oauth, clock)
    assert await outcome(complete(replica, await came_back(linked))) == "OK"


async def test_unreachable_provider_returns_provider_unavailable(
    linked: Service, provider: LocalProvider
) -> None:
    request = await came_back(linked)
    provider.answers["/token"] = breaking_off
    error = await failure(complete(linked, request))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.UNAVAILABLE,
        "PROVIDER_UNAVAILABLE",
    )
    assert detail(error, RetryInfo).retry_delay.seconds == 1
    del provider.answers["/token"]
    # The state is used up: the login has to be started again.
    assert await outcome(complete(linked, request)) == "STATE_INVALID"
    assert await tries(linked) == "OK"


async def test_failed_provider_discovery_returns_provider_unavailable(
    linked: Service, provider: LocalProvider
) -> None:
    provider.answers["/.well-known/openid-configuration"] = saying("<html>", 503)
    assert await outcome(linked.auth().BeginOAuth(begin())) == "PROVIDER_UNAVAILABLE"
    assert await linked.fetch("SELECT FROM oauth_states") == []
    # GitHub's endpoints are configured rather than discovered.
    assert await tries(linked, "github") == "OK"


@pytest.mark.parametrize("kind", KINDS)
async def test_silent_provider_times_out(
    kind: str, start_service: StartService, oauth: Settings, provider: LocalProvider
) -> None:
    request = await came_back(await start_service(oauth), kind)
    service = await start_service(with_changes(oauth, "oauth", timeout=timedelta(seconds=0.3)))
    leave = asyncio.Event()

    async def silent(_request: Any) -> Any:
        await leave.wait()
        return await saying("{}")(_request)

    provider.answers |= {"/token": silent, "/login/oauth/access_token": silent}
    assert await outcome(complete(service, request)) == "PROVIDER_UNAVAILABLE"
    leave.set()


async def test_invalid_authorization_code_is_rejected(linked: Service) -> None:
    for kind in KINDS:
        request = await came_back(linked, kind)
        request.code = "another"
        error = await failure(complete(linked, request))
        assert (error.code(), reason_of(error)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "CREDENTIALS_INVALID",
        )


async def test_code_of_another_login_is_rejected(linked: Service) -> None:
    # A stolen code that is injected: it was issued for another verifier (RFC 9700, 4.5).
    mine, stolen = await came_back(linked), await came_back(linked)
    mine.code = stolen.code
    assert await outcome(complete(linked, mine)) == "CREDENTIALS_INVALID"


async def test_state_of_another_provider_is_rejected(
    linked: Service, provider: LocalProvider
) -> None:
    local, github = await came_back(linked), await came_back(linked, "github")
    local.state = github.state
    provider.asked.clear()
    assert await outcome(complete(linked, local)) == "CREDENTIALS_INVALID"
    # The request went to the state's provider.
    assert provider.asked == ["/login/oauth/access_token"]


@pytest.mark.parametrize("kind", KINDS)
async def test_new_user_without_verified_address_is_rejected(
    kind: str, linked: Service, provider: LocalProvider
) -> None:
    provider.claims["email_verified"] = False
    provider.emails = [{"email": EMAIL, "primary": True, "verified": False}]
    error = await failure(complete(linked, await came_back(linked, kind)))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "EMAIL_NOT_VERIFIED",
    )
    assert await linked.fetch("SELECT FROM users") == []


async def test_address_owner_reclaims_unverified_account(linked: Service) -> None:
    stolen = await linked.new_session()
    answer = await complete(linked, await came_back(linked))
    assert (answer.tokens.user_id, answer.new_user) == (stolen.user_id, False)
    assert await linked.judge_token(stolen.access_token, strict=True) == "SESSION_REVOKED"
    assert await outcome(linked.refresh(stolen.refresh_token)) == "REFRESH_TOKEN_INVALID"
    assert await outcome(linked.login()) == "CREDENTIALS_INVALID"
    events = await linked.fetch("SELECT detail FROM audit_events WHERE type = 'user.owner_arrived'")
    assert [json.loads(row["detail"]) for row in events] == [{}]


async def test_invalid_fields_are_named(linked: Service, provider: LocalProvider) -> None:
    start, end = linked.auth().BeginOAuth, linked.auth().CompleteOAuth
    for field, request in {
        "provider": begin("nobody"),
        "redirect_uri": pb.BeginOAuthRequest(provider="local"),
        "link_access_token": begin(link="x" * 8_193),
        "client.ip": pb.BeginOAuthRequest(
            provider="local", redirect_uri=REDIRECT, client=ClientContext(ip="x")
        ),
    }.items():
        error = await failure(start(request))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
    for field, bad in {
        "state": pb.CompleteOAuthRequest(code="x"),
        "code": pb.CompleteOAuthRequest(state="x"),
        "iss": pb.CompleteOAuthRequest(state="x", code="x", iss="x" * 2_049),
    }.items():
        error = await failure(end(bad))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
    error = await failure(
        start(pb.BeginOAuthRequest(provider="local", redirect_uri=REDIRECT + "/"))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (reason_of(error), fields_of(error)) == ("REDIRECT_NOT_ALLOWED", ["redirect_uri"])
    assert provider.asked == []


async def test_login_starts_are_throttled(start_service: StartService, oauth: Settings) -> None:
    limit = {"requests": 2, "window": "1h"}
    policy = type(oauth.brute_force.oauth_logins_per_ip).model_validate(limit)
    service = await start_service(with_changes(oauth, "brute_force", oauth_logins_per_ip=policy))
    ends = [await outcome(service.auth().BeginOAuth(begin())) for _ in range(3)]
    assert ends == ["OK", "OK", "TOO_MANY_ATTEMPTS"]
    error = await failure(service.auth().BeginOAuth(begin()))
    assert detail(error, RetryInfo).retry_delay.ToSeconds() > 60


async def test_provider_with_wrong_secret_returns_provider_misconfigured(
    linked: Service, provider: LocalProvider
) -> None:
    request = await came_back(linked)
    provider.answers["/token"] = saying('{"error": "invalid_client"}', 401)
    error = await failure(complete(linked, request))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PROVIDER_MISCONFIGURED",
    )
    assert await outcome(complete(linked, request)) == "STATE_INVALID"
    del provider.answers["/token"]
    assert await tries(linked) == "OK"


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_verification_of_address_is_logged(
    kind: str, linked: Service, provider: LocalProvider
) -> None:
    provider.claims["email_verified"] = None
    provider.emails = []
    with caught() as lines:
        assert await tries(linked, kind) == "EMAIL_NOT_VERIFIED"
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    (event,) = (line for line in logged if line["event"] == "provider_email_not_verified")
    missing = {"local": "email_verified is absent", "github": "email is absent"}[kind]
    assert (event["provider"], event["missing"]) == (kind, missing)


async def test_unmarked_address_counts_only_by_setting(
    start_service: StartService, oauth: Settings, provider: LocalProvider, clock: FakeClock
) -> None:
    provider.claims["email_verified"] = None
    trusted = {"local": provider.settings(trust_unmarked_email=True)}
    service = await start_service(with_changes(oauth, "oauth", providers=trusted), clock)
    assert (await complete(service, await came_back(service))).new_user


@pytest.mark.parametrize("proxied", [True, False])
async def test_proxy_of_environment_or_settings_is_used(
    proxied: bool,
    start_service: StartService,
    oauth: Settings,
    provider: LocalProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxying() as proxy:
        settings = oauth if proxied else with_changes(oauth, "outbound", proxy=SecretStr("none"))
        # gRPC's client, which the test calls the service with, would use it as well.
        with monkeypatch.context() as environment:
            environment.setenv("http_proxy", proxy.address)
            environment.setenv("no_proxy", "")
            service = await start_service(settings)
        assert await outcome(service.auth().BeginOAuth(begin())) == "OK"
        await service.app.stop()
    # What follows is sent over the same connection.
    assert proxy.asked == ([f"GET {provider.address}{provider.asked[0]}"] if proxied else [])


async def test_only_apps_can_log_users_in(linked: Service) -> None:
    for caller in ("edge", "issuer", "admin", "observer"):
        auth = linked.auth(caller)
        assert await outcome(auth.BeginOAuth(begin())) == "CALLER_NOT_ALLOWED"
        request = pb.CompleteOAuthRequest(state="x", code="x")
        assert await outcome(auth.CompleteOAuth(request)) == "CALLER_NOT_ALLOWED"


async def test_provider_connections_close_on_shutdown(
    oauth: Settings, start_service: StartService, provider: LocalProvider
) -> None:
    service = await start_service(oauth)
    begun = await service.auth().BeginOAuth(begin())
    await browse(begun.authorization_url)
    # Warnings are errors: a session left open would cause one.
    await service.app.stop()
