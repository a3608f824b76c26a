"""AdminService.ImpersonateUser over mutual TLS: short, marked everywhere, and without power."""

import json
from datetime import timedelta

import pytest
from google.protobuf.message_factory import GetMessageClass

from authsvc.app.build import open_parts
from authsvc.config import CookieSettings, Settings
from authsvc.core.signing.signer import Signer
from authsvc.models.calls import Role
from authsvc.rpc.access import ACCESS
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.admin_service_pb2 import ImpersonateUserRequest
from authsvc.v1.common_pb2 import DELIVERY_RETURN, ClientContext, Tokens
from authsvc.v1.session_service_pb2 import (
    ListSessionsRequest,
    RevokeSessionRequest,
    ValidateSessionRequest,
)
from tests.support import session_keys
from tests.support.accounts import CALL, EMAIL
from tests.support.api import OWN
from tests.support.clock import FakeClock
from tests.support.oauth_requests import oauth_settings
from tests.support.passkeys import bearer
from tests.support.probe import (
    failure,
    identity_of,
    outcome,
    reason_of,
    with_callers,
    with_changes,
)
from tests.support.provider import REDIRECT, LocalProvider
from tests.support.service import Service, StartService, fields_of
from tests.support.tokens import unreachable

ADMIN = identity_of("admin")
REASON = "case 4711: can't see the invoice"
# What an operator may do in the user's name. A new RPC is refused unless it is added here and in
# the access table.
HARMLESS = {
    "/authsvc.v1.AccountService/GetAccount",
    "/authsvc.v1.AccountService/ListApiKeys",
    "/authsvc.v1.AccountService/ListFactors",
    "/authsvc.v1.AccountService/ListIdentities",
    "/authsvc.v1.AccountService/ListSecurityEvents",
    "/authsvc.v1.AccountService/UpdateAccount",
}
BEARER = sorted(name for name in OWN if ACCESS[name].bearer)


async def impersonate(
    service: Service, user_id: str, reason: str = REASON, **client: str
) -> Tokens:
    request = ImpersonateUserRequest(user_id=user_id, reason=reason, client=ClientContext(**client))
    return (await service.admin().ImpersonateUser(request)).tokens


async def call(service: Service, method: str, tokens: Tokens) -> str:
    """Call a bearer RPC with an empty request; return the outcome."""
    rpc = OWN[method]
    channel = service.clients.channel("app")
    kind = "unary_stream" if rpc.server_streaming else "unary_unary"
    stub = getattr(channel, kind)(
        method,
        request_serializer=GetMessageClass(rpc.input_type).SerializeToString,
        response_deserializer=GetMessageClass(rpc.output_type).FromString,
    )
    called = stub(GetMessageClass(rpc.input_type)(), metadata=bearer(tokens))
    return await outcome(called.read() if rpc.server_streaming else called)


async def roles_of(service: Service, user_id: str, *roles: str) -> None:
    await service.fetch("UPDATE users SET roles = $2 WHERE user_id = $1", user_id, list(roles))


@pytest.mark.fast
async def test_tokens_and_session_name_the_impersonator(timed: Service, clock: FakeClock) -> None:
    user_id = await timed.register()
    clock.advance(timedelta(days=2))
    tokens = await impersonate(timed, user_id, ip="203.0.113.9")
    quarter = clock.now().replace(microsecond=0) + timedelta(minutes=15)
    assert tokens.access_token_expire_time.ToSeconds() == quarter.timestamp()
    assert (tokens.user_id, tokens.refresh_token) == (user_id, "")
    assert not tokens.HasField("refresh_token_expire_time")
    answer = await timed.auth("edge").ValidateToken(
        auth_pb.ValidateTokenRequest(access_token=tokens.access_token)
    )
    assert answer.active
    assert list(answer.claims.actors) == [ADMIN]
    assert (answer.claims.subject, answer.claims.session_id) == (user_id, tokens.session_id)
    assert not answer.claims.authentication_methods
    # Not a recent login: as old as the account.
    logged_in = answer.claims.authentication_time.ToSeconds()
    assert logged_in <= clock.now().timestamp() - timedelta(days=2).total_seconds()
    [batched] = (
        await timed.auth("edge").BatchValidateTokens(
            auth_pb.BatchValidateTokensRequest(access_tokens=[tokens.access_token])
        )
    ).results
    assert list(batched.claims.actors) == [ADMIN]
    checked = await timed.sessions("edge").ValidateSession(
        ValidateSessionRequest(session_token=tokens.session_token, csrf_token=tokens.csrf_token)
    )
    assert (checked.active, checked.csrf_valid) == (True, True)
    assert checked.session.impersonator == ADMIN
    assert (await timed.get_session(tokens.session_id)).impersonator == ADMIN
    # However often it is used, it doesn't last longer.
    clock.advance(timedelta(minutes=14))
    assert await timed.judge_session(tokens.session_token) == ""
    clock.advance(timedelta(minutes=1))
    assert await timed.judge_session(tokens.session_token) == "SESSION_EXPIRED"
    assert await timed.judge_token(tokens.access_token) == "EXPIRED"


async def test_user_sees_impersonation(service: Service) -> None:
    own = await service.new_session()
    tokens = await impersonate(service, own.user_id)
    listed = await service.sessions().ListSessions(ListSessionsRequest(user_id=own.user_id))
    found = {session.session_id: session.impersonator for session in listed.sessions}
    assert found == {own.session_id: "", tokens.session_id: ADMIN}
    await service.account().UpdateAccount(
        account_pb.UpdateAccountRequest(display_name="Ada"), metadata=bearer(tokens)
    )
    await service.account().UpdateAccount(
        account_pb.UpdateAccountRequest(display_name="Ada L."), metadata=bearer(own)
    )
    await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=tokens.access_token, audience="billing")
    )
    await service.sessions().RevokeSession(RevokeSessionRequest(session_id=tokens.session_id))
    events = await service.account().ListSecurityEvents(
        account_pb.ListSecurityEventsRequest(), metadata=bearer(own)
    )
    marked = [event.type for event in events.events if event.impersonator == ADMIN]
    assert marked == ["session.revoke", "token.exchange", "user.update", "session.impersonate"]
    # The mark is on every event of the session, and on no other.
    for event in events.events:
        assert (event.impersonator != "") == (event.session_id == tokens.session_id)
    assert await service.judge_session(tokens.session_token) == "SESSION_REVOKED"
    assert await service.judge_token(tokens.access_token) == "SESSION_REVOKED"


async def test_event_holds_reason_and_caller(service: Service) -> None:
    user_id = await service.register()
    await impersonate(service, user_id, f"  {REASON}\n")
    (event,) = await service.fetch(
        "SELECT user_id, caller, detail FROM audit_events WHERE type = 'session.impersonate'"
    )
    assert (str(event["user_id"]), event["caller"]) == (user_id, ADMIN)
    detail = json.loads(event["detail"])
    assert (detail["reason"], detail["impersonator"]) == (REASON, ADMIN)


@pytest.mark.parametrize("method", BEARER)
async def test_only_harmless_calls_accept_impersonated_session(
    method: str, service: Service
) -> None:
    own = await service.new_session()
    tokens = await impersonate(service, own.user_id)
    found = await call(service, method, tokens)
    if method in HARMLESS:
        assert found != "IMPERSONATION_NOT_ALLOWED"
        assert found == await call(service, method, own)
    else:
        assert found == "IMPERSONATION_NOT_ALLOWED"


def test_harmless_calls_are_those_of_the_access_table() -> None:
    assert {name for name, access in ACCESS.items() if access.impersonated} == HARMLESS
    assert set(BEARER) >= HARMLESS


async def test_impersonated_token_is_no_proof_of_ownership(
    start_service: StartService, live_settings: Settings
) -> None:
    roles = {identity_of("app"): [Role.APP, Role.ISSUER], ADMIN: [Role.ADMIN]}
    service = await start_service(with_callers(live_settings, roles))
    own = await service.new_session()
    operator = await impersonate(service, own.user_id)
    requested = await service.auth().ResendVerification(
        auth_pb.ResendVerificationRequest(email=EMAIL, delivery=DELIVERY_RETURN)
    )
    verify = auth_pb.VerifyEmailRequest(email=EMAIL, code=requested.code)
    verify.access_token = operator.access_token
    assert await outcome(service.auth().VerifyEmail(verify)) == "CREDENTIALS_INVALID"
    verify.access_token = own.access_token
    assert await outcome(service.auth().VerifyEmail(verify)) == "OK"


async def test_impersonated_token_links_no_identity(
    start_service: StartService, live_settings: Settings, provider: LocalProvider
) -> None:
    settings = live_settings.model_copy(update={"oauth": oauth_settings(provider)})
    service = await start_service(settings)
    tokens = await impersonate(service, await service.register())
    begin = auth_pb.BeginOAuthRequest(
        provider="github", redirect_uri=REDIRECT, link_access_token=tokens.access_token
    )
    assert await outcome(service.auth().BeginOAuth(begin)) == "IMPERSONATION_NOT_ALLOWED"


async def test_impersonated_session_attests_no_key(service: Service) -> None:
    tokens = await impersonate(service, await service.register())
    assert await outcome(session_keys.issue(service, tokens)) == "IMPERSONATION_NOT_ALLOWED"
    assert await service.fetch("SELECT FROM session_keys") == []


async def test_exchanged_token_keeps_the_chain_and_has_no_power(service: Service) -> None:
    tokens = await impersonate(service, await service.register())
    exchanged = await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=tokens.access_token, audience="billing")
    )
    answer = await service.auth("edge").ValidateToken(
        auth_pb.ValidateTokenRequest(access_token=exchanged.access_token, audience="billing")
    )
    assert list(answer.claims.actors) == [identity_of("app"), ADMIN]
    # For our own audience, too: a service must not act on the account with it.
    ours = await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=tokens.access_token)
    )
    method = "/authsvc.v1.AccountService/GetAccount"
    assert await call(service, method, Tokens(access_token=ours.access_token)) == "BEARER_INVALID"


async def test_exchanged_token_of_own_session_is_not_taken_for_impersonation(
    service: Service,
) -> None:
    own = await service.new_session()
    ours = await service.auth().ExchangeToken(
        auth_pb.ExchangeTokenRequest(subject_token=own.access_token)
    )
    method = "/authsvc.v1.AccountService/GetAccount"
    assert await call(service, method, Tokens(access_token=ours.access_token)) == "BEARER_INVALID"


@pytest.mark.parametrize("roles", [("admin",), ("user", "support"), ("root",)])
async def test_users_with_other_roles_are_not_impersonated(
    roles: tuple[str, ...], service: Service
) -> None:
    user_id = await service.register()
    await roles_of(service, user_id, *roles)
    error = await failure(impersonate(service, user_id))
    assert reason_of(error) == "IMPERSONATION_NOT_ALLOWED"
    assert await service.fetch("SELECT FROM sessions") == []


async def test_roles_to_impersonate_are_a_setting(
    start_service: StartService, live_settings: Settings
) -> None:
    settings = with_changes(
        live_settings,
        "sessions",
        impersonation_roles=frozenset({"user", "support"}),
        impersonation_lifetime=timedelta(minutes=1),
    )
    service = await start_service(settings)
    user_id = await service.register()
    await roles_of(service, user_id, "support")
    tokens = await impersonate(service, user_id)
    session = await service.get_session(tokens.session_id)
    assert session.absolute_expire_time.seconds - session.create_time.seconds == 60


async def test_disabled_and_unknown_users_are_not_impersonated(service: Service) -> None:
    user_id = await service.register()
    await service.fetch("UPDATE users SET status = 'disabled' WHERE user_id = $1", user_id)
    nobody = "01900000-0000-7000-8000-000000000001"
    for each in (user_id, nobody):
        assert await outcome(impersonate(service, each)) == "USER_NOT_FOUND"


async def test_no_session_is_left_when_its_token_cannot_be_signed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = (await service.new_session()).user_id
    with monkeypatch.context() as patched:
        patched.setattr(Signer, "sign", unreachable)
        assert await outcome(impersonate(service, user_id)) == "STORE_UNAVAILABLE"
    request = ListSessionsRequest(user_id=user_id)
    assert len((await service.sessions().ListSessions(request)).sessions) == 1


@pytest.mark.parametrize("reason", ["", " ", "\t\n", "x" * 513, "a\0b"])
async def test_reason_is_compulsory(reason: str, service: Service) -> None:
    error = await failure(impersonate(service, await service.register(), reason))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["reason"])


async def test_own_sessions_and_login_data_stay_as_they_are(service: Service) -> None:
    own = [await service.new_session(ip="192.0.2.1", device_id="phone")]
    own += [await service.login(ip="192.0.2.1", device_id="phone") for _ in range(4)]
    columns = "SELECT last_login_time, failed_logins, failed_device_logins FROM users"
    before = await service.fetch(columns)
    devices = await service.fetch("SELECT * FROM devices")
    tokens = [
        await impersonate(service, own[0].user_id, ip="198.51.100.1", device_id="desk")
        for _ in range(7)
    ]
    assert await service.fetch(columns) == before
    assert await service.fetch("SELECT * FROM devices") == devices
    for each in (*own, *tokens):
        assert await service.judge_session(each.session_token, strict=True) == ""
    # And a login ends the user's own oldest session, whatever operators have opened.
    await service.login()
    ended = [await service.judge_session(each.session_token, strict=True) for each in own]
    assert ended == ["SESSION_REVOKED", "", "", "", ""]
    for each in tokens:
        assert await service.judge_session(each.session_token, strict=True) == ""


async def test_disabling_the_user_ends_impersonation(
    service: Service, live_settings: Settings
) -> None:
    user_id = await service.register()
    tokens = await impersonate(service, user_id)
    async with open_parts(live_settings) as parts:
        await parts.use.accounts.disable(CALL, EMAIL)
    assert await service.judge_session(tokens.session_token, strict=True) != ""
    assert await service.judge_token(tokens.access_token, strict=True) != ""


async def test_cookie_comes_with_impersonation(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "sessions", cookie=CookieSettings()))
    tokens = await impersonate(service, await service.register())
    assert tokens.set_cookie.startswith(f"__Host-session={tokens.session_token}; Max-Age=")
    assert _max_age(tokens.set_cookie) <= 900


def _max_age(header: str) -> int:
    [value] = [part[8:] for part in header.split("; ") if part.startswith("Max-Age=")]
    return int(value)
