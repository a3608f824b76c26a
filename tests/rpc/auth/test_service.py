"""Registration and login, from a calling service's side."""

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, QuotaFailure, RetryInfo

from authsvc.config import CookieSettings, Settings
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2 import GetAccountRequest
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.session_service_pb2 import RevokeSessionRequest, ValidateSessionRequest
from tests.support.accounts import EMAIL, IP, OTHER_IP, PASSWORD, WRONG
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, detail, fields_of

DAY = 86_400

# Register


@pytest.mark.fast
async def test_registered_user_logs_in_and_has_account(service: Service) -> None:
    response = await service.auth().Register(
        pb.RegisterRequest(email=EMAIL, password=PASSWORD, display_name="Ada Lovelace")
    )
    assert str(UUID(response.user_id)) == response.user_id
    tokens = await service.login()
    assert tokens.user_id == response.user_id
    shown = await service.account().GetAccount(
        GetAccountRequest(), metadata=(("authorization", f"Bearer {tokens.access_token}"),)
    )
    assert shown.account.user_id == response.user_id
    assert (shown.account.email, shown.account.display_name) == (EMAIL, "Ada Lovelace")
    assert list(shown.account.roles) == ["user"]


async def test_registration_does_not_log_in(service: Service) -> None:
    await service.register()
    assert not await service.fetch("SELECT 1 FROM sessions")


async def test_address_is_taken_in_every_spelling(service: Service) -> None:
    await service.register(EMAIL)
    for email in (EMAIL, EMAIL.upper()):
        request = pb.RegisterRequest(email=email, password=PASSWORD)
        error = await failure(service.auth().Register(request))
        assert (error.code(), reason_of(error)) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "EMAIL_TAKEN",
        )


async def test_weak_password_reports_each_broken_rule(service: Service) -> None:
    error = await failure(
        service.auth().Register(pb.RegisterRequest(email=EMAIL, password="hunter2"))
    )
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PASSWORD_WEAK",
    )
    found = detail(error, BadRequest).field_violations
    assert {violation.field for violation in found} == {"password"}
    texts = [violation.description for violation in found]
    assert len(set(texts)) == len(texts) >= 3
    assert not any("hunter2" in text for text in texts)


async def test_address_of_a_private_network_is_accepted_by_a_setting(
    start_service: StartService, live_settings: Settings
) -> None:
    closed = await start_service(live_settings)
    request = pb.RegisterRequest(email="Ada@corp.local", password=PASSWORD)
    assert reason_of(await failure(closed.auth().Register(request))) == "EMAIL_INVALID"
    unknown = pb.LoginRequest(email="ada@corp.local", password=PASSWORD)
    assert await outcome(closed.auth().Login(unknown)) == "CREDENTIALS_INVALID"
    open_to_all = await start_service(with_changes(live_settings, "emails", directory_domains=True))
    user_id = await open_to_all.register("Ada@corp.local")
    # The setting is about new accounts only.
    assert (await closed.login("ada@CORP.LOCAL")).user_id == user_id
    again = pb.RegisterRequest(email="ADA@Corp.Local", password=PASSWORD)
    assert await outcome(open_to_all.auth().Register(again)) == "EMAIL_TAKEN"


async def test_invalid_address_is_rejected(service: Service) -> None:
    error = await failure(
        service.auth().Register(pb.RegisterRequest(email="ada@", password=PASSWORD))
    )
    assert reason_of(error) == "EMAIL_INVALID"
    assert fields_of(error) == ["email"]


BAD_FIELDS: dict[str, dict[str, Any]] = {
    "email": {"email": ""},
    "password": {"password": ""},
    "display_name": {"display_name": "é" * 129},
    "client.ip": {"client": ClientContext(ip="192.0.2.1/24")},
    "client.user_agent": {"client": ClientContext(user_agent="x" * 1025)},
    "client.device_id": {"client": ClientContext(device_id="x" * 257)},
}


@pytest.mark.parametrize("field", BAD_FIELDS)
async def test_invalid_field_is_named(field: str, service: Service) -> None:
    good: dict[str, Any] = {"email": EMAIL, "password": PASSWORD}
    request = pb.RegisterRequest(**(good | BAD_FIELDS[field]))
    error = await failure(service.auth().Register(request))
    assert reason_of(error) == "FIELD_INVALID"
    assert fields_of(error) == [field]


async def test_registrations_are_limited_per_ip(
    start_service: StartService, live_settings: Settings
) -> None:
    few = live_settings.brute_force.registrations_per_ip.model_copy(update={"requests": 2})
    service = await start_service(
        with_changes(live_settings, "brute_force", registrations_per_ip=few)
    )

    def register(n: int, ip: str) -> Any:
        request = pb.RegisterRequest(
            email=f"user{n}@example.test", password=PASSWORD, client=ClientContext(ip=ip)
        )
        return service.auth().Register(request)

    assert [await outcome(register(n, IP)) for n in range(2)] == ["OK", "OK"]
    error = await failure(register(2, IP))
    assert reason_of(error) == "TOO_MANY_ATTEMPTS"
    assert detail(error, RetryInfo).retry_delay.ToSeconds() > 0
    assert detail(error, QuotaFailure).violations[0].subject == "registration"
    assert await outcome(register(2, OTHER_IP)) == "OK"


# Login


async def test_login_returns_all_tokens(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session(ip=IP, user_agent="Browser/1", device_id="phone")
    now = int(clock.now().timestamp())
    assert tokens.access_token_expire_time.ToSeconds() == now + 3_600
    assert tokens.refresh_token_expire_time.ToSeconds() == now + 7 * DAY
    assert len({tokens.access_token, tokens.refresh_token, tokens.session_token}) == 3
    verdict = await timed.auth("edge").ValidateToken(
        pb.ValidateTokenRequest(access_token=tokens.access_token)
    )
    assert verdict.active
    response = await timed.sessions().ValidateSession(
        ValidateSessionRequest(session_token=tokens.session_token, csrf_token=tokens.csrf_token)
    )
    assert response.csrf_valid
    assert response.session.session_id == tokens.session_id
    assert list(response.session.authentication_methods) == ["pwd"]


async def test_each_login_opens_its_own_session(service: Service) -> None:
    first, second = await service.new_session(), await service.login()
    for name in ("access_token", "refresh_token", "session_token", "csrf_token", "session_id"):
        assert getattr(first, name) != getattr(second, name)


@pytest.mark.fast
async def test_unknown_user_and_wrong_password_are_indistinguishable(service: Service) -> None:
    await service.register()
    shown = []
    for email, password in ((EMAIL, WRONG), ("nobody@example.test", PASSWORD)):
        error = await failure(
            service.auth().Login(
                pb.LoginRequest(email=email, password=password),
                metadata=(("x-request-id", "the-same"),),
            )
        )
        assert reason_of(error) == "CREDENTIALS_INVALID"
        shown.append((error.code(), error.details(), tuple(error.trailing_metadata() or ())))
    assert shown[0] == shown[1]


async def test_sixth_guess_is_rejected_with_retry_after(service: Service) -> None:
    await service.register()

    def login(password: str, ip: str) -> pb.LoginRequest:
        return pb.LoginRequest(email=EMAIL, password=password, client=ClientContext(ip=ip))

    guesses = [await outcome(service.auth().Login(login(WRONG, IP))) for _ in range(5)]
    assert guesses == ["CREDENTIALS_INVALID"] * 5
    error = await failure(service.auth().Login(login(PASSWORD, IP)))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_ATTEMPTS",
    )
    assert 0 < detail(error, RetryInfo).retry_delay.ToSeconds() <= 300
    assert detail(error, QuotaFailure).violations[0].subject == "login"
    assert await outcome(service.auth().Login(login(PASSWORD, OTHER_IP))) == "OK"


async def test_full_queue_sheds_logins_with_retry_after(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(
        with_changes(live_settings, "passwords", hash_workers=1, hash_queue=1)
    )
    requests = [
        pb.LoginRequest(email=f"user{n}@example.test", password=PASSWORD) for n in range(32)
    ]
    answers = await asyncio.gather(
        *(service.auth().Login(request) for request in requests), return_exceptions=True
    )
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    reasons = {reason_of(error): error for error in errors}
    assert reasons.keys() == {"CREDENTIALS_INVALID", "OVERLOADED"}
    overloaded = reasons["OVERLOADED"]
    assert overloaded.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(overloaded, RetryInfo).retry_delay.ToMilliseconds() > 0


# Cookies


async def test_answers_that_open_a_session_carry_its_cookie(
    start_service: StartService, live_settings: Settings
) -> None:
    settings = with_changes(live_settings, "sessions", cookie=CookieSettings())
    service = await start_service(settings)
    logged_in = await service.new_session()
    created = await service.create_session(logged_in.user_id)
    for tokens in (logged_in, created):
        name, _, rest = tokens.set_cookie.partition("=")
        value, _, attributes = rest.partition("; ")
        assert (name, value) == ("__Host-session", tokens.session_token)
        assert attributes == "Max-Age=2592000; Path=/; Secure; HttpOnly; SameSite=Lax"
    # The session token stays the same, and so does its cookie.
    refreshed = await service.refresh(logged_in.refresh_token)
    assert (refreshed.session_token, refreshed.set_cookie) == ("", "")
    removal = "__Host-session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
    out = await service.auth().Logout(pb.LogoutRequest(refresh_token=refreshed.refresh_token))
    assert out.clear_cookie == removal
    ended = await service.sessions().RevokeSession(
        RevokeSessionRequest(session_id=created.session_id)
    )
    assert ended.clear_cookie == removal


async def test_without_the_setting_there_is_no_cookie(service: Service) -> None:
    tokens = await service.new_session()
    assert tokens.set_cookie == ""
    out = await service.auth().Logout(pb.LogoutRequest(refresh_token=tokens.refresh_token))
    assert out.clear_cookie == ""
