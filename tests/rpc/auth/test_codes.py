"""One-time codes from a calling service's side: requested, sent or returned, and used."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo

from authsvc.config import CallerSettings, Settings
from authsvc.core.messages.outbox import MessageKind
from authsvc.models.calls import Role
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.common_pb2 import DELIVERY_RETURN, DELIVERY_SEND, ClientContext
from tests.support.accounts import EMAIL, IP, OTHER_IP, PASSWORD
from tests.support.clock import FakeClock
from tests.support.code_requests import sent
from tests.support.codes import NEW_EMAIL, NEW_PASSWORD, unlimited_codes
from tests.support.passkeys import bearer
from tests.support.probe import failure, identity_of, outcome, reason_of
from tests.support.service import Service, StartService, detail, fields_of

NOBODY = "nobody@example.test"
# A caller to which codes may be returned, like the development client "issuer".
PORTAL = "portal"
WRONG_CODE = "00000000"
CLIENT = ClientContext(ip=IP, user_agent="Browser/1")


def with_portal(settings: Settings, **changes: object) -> Settings:
    """Return the settings with the caller PORTAL, and no limits on codes except `changes`."""
    portal = CallerSettings(identity=identity_of(PORTAL), roles=frozenset({Role.APP, Role.ISSUER}))
    callers = (*settings.callers, portal)
    return settings.model_copy(update={"callers": callers, "codes": unlimited_codes(**changes)})


@pytest_asyncio.fixture
async def portal(start_service: StartService, live_settings: Settings, clock: FakeClock) -> Service:
    """A service with the caller PORTAL; codes may be requested at any time."""
    return await start_service(with_portal(live_settings), clock)


async def verified(service: Service, email: str = EMAIL) -> bool:
    rows = await service.fetch("SELECT email_verify_time FROM users WHERE email = $1", email)
    return rows[0]["email_verify_time"] is not None


# Verification


@pytest.mark.fast
async def test_registered_user_verifies_address(portal: Service) -> None:
    await portal.register()
    code = await sent(portal, MessageKind.VERIFY_EMAIL)
    request = pb.VerifyEmailRequest(email=EMAIL, code=WRONG_CODE, client=CLIENT)
    error = await failure(portal.auth().VerifyEmail(request))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CODE_INVALID",
    )
    request.code = f"{code[:4]} {code[4:]}"
    await portal.auth().VerifyEmail(request)
    assert await verified(portal)
    assert await outcome(portal.auth().VerifyEmail(request)) == "CODE_INVALID"


async def test_issuer_gets_code_of_registration(portal: Service) -> None:
    request = pb.RegisterRequest(email=EMAIL, password=PASSWORD, delivery=DELIVERY_RETURN)
    response = await portal.auth(PORTAL).Register(request)
    assert not await portal.fetch("SELECT FROM outbox WHERE state = 'pending'")
    await portal.auth().VerifyEmail(pb.VerifyEmailRequest(email=EMAIL, code=response.code))
    assert await verified(portal)


async def test_resent_code_verifies_address(portal: Service) -> None:
    await portal.register()
    request = pb.ResendVerificationRequest(email=EMAIL, delivery=DELIVERY_RETURN)
    code = (await portal.auth(PORTAL).ResendVerification(request)).code
    await portal.auth().VerifyEmail(pb.VerifyEmailRequest(email=EMAIL, code=code))
    assert await verified(portal)


async def test_login_can_require_verified_address(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_portal(live_settings, require_verified_email=True))
    await service.register()
    login = pb.LoginRequest(email=EMAIL, password=PASSWORD)
    assert await outcome(service.auth().Login(login)) == "EMAIL_NOT_VERIFIED"
    code = await sent(service, MessageKind.VERIFY_EMAIL)
    verify = pb.VerifyEmailRequest(email=EMAIL, code=code, password=PASSWORD)
    assert not (await service.auth().VerifyEmail(verify)).credentials_removed
    assert await outcome(service.auth().Login(login)) == "OK"


async def test_login_code_does_not_verify_account_with_second_factor(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_portal(live_settings, require_verified_email=True))
    await service.register()
    await service.fetch("UPDATE users SET has_second_factor = true")
    request = pb.RequestLoginCodeRequest(email=EMAIL, delivery=DELIVERY_RETURN)
    asked = await service.auth(PORTAL).RequestLoginCode(request)
    login = pb.LoginWithCodeRequest(challenge_id=asked.challenge_id, code=asked.code)
    assert await outcome(service.auth().LoginWithCode(login)) == "EMAIL_NOT_VERIFIED"
    code = await sent(service, MessageKind.VERIFY_EMAIL)
    verify = pb.VerifyEmailRequest(email=EMAIL, code=code)
    assert await outcome(service.auth().VerifyEmail(verify)) == "CODE_INVALID"
    verify.password = PASSWORD
    assert not (await service.auth().VerifyEmail(verify)).credentials_removed
    assert (await service.auth().LoginWithCode(login)).HasField("mfa")


# Login


@pytest.mark.fast
async def test_user_logs_in_with_code(portal: Service) -> None:
    user_id = await portal.register()
    request = pb.RequestLoginCodeRequest(email=EMAIL, client=CLIENT)
    asked = await portal.auth().RequestLoginCode(request)
    assert asked.code == ""
    login = pb.LoginWithCodeRequest(
        challenge_id=asked.challenge_id,
        code=await sent(portal, MessageKind.LOGIN_CODE),
        client=CLIENT,
    )
    response = await portal.auth().LoginWithCode(login)
    assert response.tokens.user_id == user_id
    assert await portal.judge_token(response.tokens.access_token) == ""
    session = await portal.get_session(response.tokens.session_id)
    assert (list(session.authentication_methods), session.ip) == (["otp"], IP)
    assert await verified(portal)
    assert await outcome(portal.auth().LoginWithCode(login)) == "CODE_INVALID"


# Recovery


@pytest.mark.fast
async def test_user_resets_forgotten_password(portal: Service) -> None:
    tokens = await portal.new_session()
    asked = await portal.auth().RequestPasswordReset(pb.RequestPasswordResetRequest(email=EMAIL))
    assert asked.code == ""
    reset = pb.ResetPasswordRequest(
        email=EMAIL,
        code=(await sent(portal, MessageKind.RESET_PASSWORD)).lower().replace("-", ""),
        new_password="too-weak",
        client=CLIENT,
    )
    error = await failure(portal.auth().ResetPassword(reset))
    assert (reason_of(error), set(fields_of(error))) == ("PASSWORD_WEAK", {"new_password"})
    reset.new_password = NEW_PASSWORD
    assert (await portal.auth().ResetPassword(reset)).revocation_cursor
    assert await portal.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    old = pb.LoginRequest(email=EMAIL, password=PASSWORD)
    assert await outcome(portal.auth().Login(old)) == "CREDENTIALS_INVALID"
    assert (await portal.login(password=NEW_PASSWORD)).user_id == tokens.user_id
    assert await outcome(portal.auth().ResetPassword(reset)) == "CODE_INVALID"


# Change of address


@pytest.mark.fast
async def test_user_changes_address(portal: Service) -> None:
    tokens = await portal.new_session()
    await portal.account().RequestEmailChange(
        account_pb.RequestEmailChangeRequest(new_email=NEW_EMAIL), metadata=bearer(tokens)
    )
    confirm = account_pb.ConfirmEmailChangeRequest(new_email=NEW_EMAIL, code=WRONG_CODE)

    def confirmed() -> Any:
        return portal.account().ConfirmEmailChange(confirm, metadata=bearer(tokens))

    assert await outcome(confirmed()) == "CODE_INVALID"
    confirm.code = await sent(portal, MessageKind.CHANGE_EMAIL)
    changed = await confirmed()
    account = changed.account
    assert (account.user_id, account.email) == (tokens.user_id, NEW_EMAIL)
    assert json.loads(changed.passkey_signals.current_user_details_json)["name"] == NEW_EMAIL
    assert account.HasField("email_verify_time")
    # The session stays active, and the next login is with the new address.
    assert await portal.judge_token(tokens.access_token, strict=True) == ""
    assert (await portal.login(NEW_EMAIL)).user_id == tokens.user_id


async def test_address_change_requires_recent_login_and_bearer_token(
    portal: Service, clock: FakeClock
) -> None:
    tokens = await portal.new_session()
    clock.advance(601)
    request = account_pb.RequestEmailChangeRequest(new_email=NEW_EMAIL)
    confirm = account_pb.ConfirmEmailChangeRequest(new_email=NEW_EMAIL, code=WRONG_CODE)
    account = portal.account()
    for metadata, refused in (
        (bearer(tokens), "REAUTHENTICATION_REQUIRED"),
        ((), "BEARER_INVALID"),
    ):
        calls = (
            account.RequestEmailChange(request, metadata=metadata),
            account.ConfirmEmailChange(confirm, metadata=metadata),
        )
        assert [await outcome(call) for call in calls] == [refused] * 2


async def test_address_taken_meanwhile_returns_email_taken(portal: Service) -> None:
    tokens = await portal.new_session()
    await portal.account().RequestEmailChange(
        account_pb.RequestEmailChangeRequest(new_email=NEW_EMAIL), metadata=bearer(tokens)
    )
    code = await sent(portal, MessageKind.CHANGE_EMAIL)
    await portal.register(NEW_EMAIL)
    confirm = account_pb.ConfirmEmailChangeRequest(new_email=NEW_EMAIL, code=code)
    call = portal.account().ConfirmEmailChange(confirm, metadata=bearer(tokens))
    error = await failure(call)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")


# All requests for codes

REQUESTS: Mapping[str, type[Message]] = {
    "ResendVerification": pb.ResendVerificationRequest,
    "RequestLoginCode": pb.RequestLoginCodeRequest,
    "RequestPasswordReset": pb.RequestPasswordResetRequest,
}
Ask = Callable[..., Any]


@pytest.fixture(params=REQUESTS)
def ask(request: pytest.FixtureRequest) -> Ask:
    """Requests a code of one kind."""

    def ask(service: Service, caller: str = "app", **fields: Any) -> Any:
        message = REQUESTS[request.param](**({"email": EMAIL} | fields))
        return getattr(service.auth(caller), request.param)(message)

    return ask


async def test_only_issuer_gets_codes(portal: Service, ask: Ask) -> None:
    await portal.register()
    error = await failure(ask(portal, delivery=DELIVERY_RETURN))
    assert (error.code(), reason_of(error)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "CALLER_NOT_ALLOWED",
    )
    assert (await ask(portal, PORTAL, delivery=DELIVERY_RETURN)).code != ""
    for caller in ("app", PORTAL):
        assert (await ask(portal, caller, delivery=DELIVERY_SEND)).code == ""
        assert (await ask(portal, caller)).code == ""
    error = await failure(ask(portal, delivery=7))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["delivery"])


async def test_registration_and_address_change_return_codes_only_to_issuers(
    portal: Service,
) -> None:
    register = pb.RegisterRequest(email=EMAIL, password=PASSWORD, delivery=DELIVERY_RETURN)
    assert await outcome(portal.auth().Register(register)) == "CALLER_NOT_ALLOWED"
    assert not await portal.fetch("SELECT FROM users")
    tokens = await portal.new_session()
    change = account_pb.RequestEmailChangeRequest(new_email=NEW_EMAIL, delivery=DELIVERY_RETURN)
    call = portal.account().RequestEmailChange(change, metadata=bearer(tokens))
    assert await outcome(call) == "CALLER_NOT_ALLOWED"
    change_call = portal.account(PORTAL).RequestEmailChange(change, metadata=bearer(tokens))
    assert (await change_call).code != ""


async def test_unknown_address_gets_same_response(portal: Service, ask: Ask) -> None:
    await portal.register()
    shapes = []
    for email in (EMAIL, NOBODY):
        response = await ask(portal, PORTAL, email=email, delivery=DELIVERY_RETURN)
        shapes.append(
            {
                name: (str(UUID(value)) == value if name == "challenge_id" else len(value))
                for field, value in response.ListFields()
                if (name := field.name)
            }
        )
        assert await ask(portal, PORTAL, email=email) is not None
    assert shapes[0] == shapes[1]


async def test_requests_are_throttled_per_address_known_or_unknown(
    start_service: StartService, live_settings: Settings, ask: Ask
) -> None:
    few = {"requests": 2, "window": "1h"}
    service = await start_service(with_portal(live_settings, requests_per_address=few))
    await service.register()
    for email in (EMAIL, NOBODY):
        ends = [await outcome(ask(service, email=spelt)) for spelt in (email, email.upper())]
        assert ends == ["OK"] * 2
        error = await failure(ask(service, email=email))
        assert (error.code(), reason_of(error)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_ATTEMPTS",
        )
        assert 0 < detail(error, RetryInfo).retry_delay.ToSeconds() <= 3_600
        assert detail(error, QuotaFailure).violations[0].subject == "code"
    assert await outcome(ask(service, email="third@example.test")) == "OK"


async def test_requests_are_throttled_per_ip(
    start_service: StartService, live_settings: Settings, ask: Ask
) -> None:
    few = {"requests": 3, "window": "1h"}
    service = await start_service(with_portal(live_settings, requests_per_ip=few))

    async def end(number: int, ip: str) -> str:
        client = ClientContext(ip=ip)
        return await outcome(ask(service, email=f"user{number}@example.test", client=client))

    assert [await end(number, IP) for number in range(4)] == ["OK"] * 3 + ["TOO_MANY_ATTEMPTS"]
    assert await end(4, OTHER_IP) == "OK"


async def test_resend_interval_applies_to_known_and_unknown_addresses(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_portal(live_settings, resend_interval="60s"))
    await service.register()
    for email in (EMAIL, NOBODY):
        login = pb.RequestLoginCodeRequest(email=email)
        assert await outcome(service.auth().RequestLoginCode(login)) == "OK"
        error = await failure(service.auth().RequestLoginCode(login))
        assert reason_of(error) == "TOO_MANY_ATTEMPTS"
        assert 0 < detail(error, RetryInfo).retry_delay.ToSeconds() <= 60
        # Each purpose has its own interval.
        reset = pb.RequestPasswordResetRequest(email=email)
        assert await outcome(service.auth().RequestPasswordReset(reset)) == "OK"


async def test_limits_table_contains_no_identifiers(portal: Service, ask: Ask) -> None:
    await ask(portal, client=CLIENT)
    rows = await portal.fetch("SELECT * FROM rate_limits WHERE policy LIKE 'authsvc.codes.%'")
    assert {row["policy"] for row in rows} == {"authsvc.codes.address", "authsvc.codes.ip"}
    shown = repr([tuple(row) for row in rows]).lower()
    assert not any(text in shown for text in (EMAIL.lower(), "example.test", IP))


BAD_FIELDS: dict[str, dict[str, Any]] = {
    "challenge_id": {"challenge_id": "1"},
    "code": {"code": "1" * 65},
    "client.ip": {"client": ClientContext(ip="here")},
}


@pytest.mark.parametrize("field", BAD_FIELDS)
async def test_invalid_field_is_named(field: str, portal: Service) -> None:
    good: dict[str, Any] = {"challenge_id": str(uuid4()), "code": WRONG_CODE}
    request = pb.LoginWithCodeRequest(**(good | BAD_FIELDS[field]))
    error = await failure(portal.auth().LoginWithCode(request))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
