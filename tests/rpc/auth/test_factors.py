"""VerifyMfa from its callers' side: the second step of a login."""

import json
from datetime import UTC
from typing import Any

import grpc
import pyotp
import pytest

from authsvc.config import Settings
from authsvc.dev.authenticator import Authenticator, decode
from authsvc.v1.account_service_pb2 import ConfirmTotpRequest, EnrollTotpRequest
from authsvc.v1.auth_service_pb2 import LoginRequest, VerifyMfaRequest
from authsvc.v1.common_pb2 import ClientContext, MfaChallenge, Tokens
from tests.support import passkeys
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.passkeys import ORIGIN, bearer
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of

REFUSED = "CREDENTIALS_INVALID"
CLIENT = {"ip": "192.0.2.1", "device_id": "phone"}


async def challenge(service: Service, email: str = EMAIL) -> MfaChallenge:
    """Log in by password; the result must be a challenge."""
    request = LoginRequest(email=email, password=PASSWORD, client=ClientContext(**CLIENT))
    response = await service.auth().Login(request)
    assert response.HasField("mfa")
    return response.mfa


def verify(service: Service, token: str, caller: str = "app", **more: Any) -> Any:
    """Present a second factor."""
    request = VerifyMfaRequest(mfa_token=token, client=ClientContext(**CLIENT), **more)
    return service.auth(caller).VerifyMfa(request)


async def secure(
    service: Service, tokens: Tokens, clock: FakeClock
) -> tuple[pyotp.TOTP, list[str]]:
    """Enroll an app with an unused current code, and recovery codes, for the tokens' user."""
    account, metadata = service.account(), bearer(tokens)
    response = await account.EnrollTotp(EnrollTotpRequest(), metadata=metadata)
    app = pyotp.TOTP(response.enrollment.secret)
    confirmation = ConfirmTotpRequest(
        factor_id=response.enrollment.factor_id, code=app.at(clock.now())
    )
    confirmed = await account.ConfirmTotp(confirmation, metadata=metadata)
    clock.advance(30)
    return app, list(confirmed.recovery_codes)


def amr(tokens: Tokens) -> list[str]:
    """Return the authentication methods in the access token."""
    claims = tokens.access_token.split(".")[1]
    return list(json.loads(decode(claims))["amr"])


@pytest.mark.fast
async def test_login_with_totp_code(timed: Service, clock: FakeClock) -> None:
    app, _ = await secure(timed, await timed.proved_session(), clock)
    asked = await challenge(timed)
    assert list(asked.methods) == ["totp", "recovery_code"]
    assert (asked.expire_time.ToDatetime(UTC) - clock.now()).total_seconds() == 300
    assert not asked.HasField("totp_enrollment")
    tokens = (await verify(timed, asked.mfa_token, totp_code=app.at(clock.now()))).tokens
    assert amr(tokens) == ["pwd", "otp", "mfa"]
    assert await timed.judge_token(tokens.access_token) == ""
    assert await timed.judge_session(tokens.session_token) == ""


async def test_login_with_recovery_code(timed: Service, clock: FakeClock) -> None:
    _, codes = await secure(timed, await timed.proved_session(), clock)
    token = (await challenge(timed)).mfa_token
    tokens = (await verify(timed, token, recovery_code=codes[0].upper())).tokens
    assert amr(tokens) == ["pwd", "otp", "mfa"]
    token = (await challenge(timed)).mfa_token
    assert await outcome(verify(timed, token, recovery_code=codes[0])) == REFUSED


@pytest.mark.fast
async def test_login_with_passkey_as_second_factor(service: Service) -> None:
    device = Authenticator(ORIGIN)
    await passkeys.new_holder(service, EMAIL, device)
    asked = await challenge(service)
    assert list(asked.methods) == ["passkey", "recovery_code"]
    # A signature is for one challenge, and a challenge allows one attempt, even with a right one.
    signed = passkeys.text(device.get(asked.passkey_options_json))
    stranger = await challenge(service)
    wrong = verify(service, stranger.mfa_token, passkey_assertion=signed)
    assert await outcome(wrong) == REFUSED
    late = passkeys.text(device.get(stranger.passkey_options_json))
    assert await outcome(verify(service, stranger.mfa_token, passkey_assertion=late)) == REFUSED
    tokens = (await verify(service, asked.mfa_token, passkey_assertion=signed)).tokens
    assert amr(tokens) == ["pwd", "hwk", "user", "mfa"]


async def test_passkey_of_another_user_is_rejected(service: Service) -> None:
    adas, eves = Authenticator(ORIGIN), Authenticator(ORIGIN)
    await passkeys.new_holder(service, EMAIL, adas)
    await passkeys.new_holder(service, "eve@example.test", eves)
    asked = await challenge(service)
    options = json.loads(asked.passkey_options_json)
    del options["allowCredentials"]
    signed = passkeys.text(eves.get(json.dumps(options)))
    assert await outcome(verify(service, asked.mfa_token, passkey_assertion=signed)) == REFUSED


async def test_cloned_passkey_is_rejected_and_alert_is_recorded(service: Service) -> None:
    device = Authenticator(ORIGIN)
    await passkeys.new_holder(service, EMAIL, device)
    asked = await challenge(service)
    device.credentials[0].sign_count = 7
    signed = passkeys.text(device.get(asked.passkey_options_json))
    await verify(service, asked.mfa_token, passkey_assertion=signed)
    device.credentials[0].sign_count = 3
    asked = await challenge(service)
    signed = passkeys.text(device.get(asked.passkey_options_json))
    assert await outcome(verify(service, asked.mfa_token, passkey_assertion=signed)) == REFUSED
    query = "SELECT count(*) FROM audit_events WHERE type = 'factor.counter_alert'"
    assert (await service.fetch(query))[0]["count"] == 1


async def test_invalid_tokens_and_factors_are_rejected_alike(
    timed: Service, clock: FakeClock
) -> None:
    app, _ = await secure(timed, await timed.proved_session(), clock)
    used, expired, live = [(await challenge(timed)).mfa_token for _ in range(3)]
    await verify(timed, used, totp_code=app.at(clock.now()))
    clock.advance(299)
    fresh = (await challenge(timed)).mfa_token
    clock.advance(1)
    right = app.at(clock.now())
    results = set()
    for token, factor in (
        (used, {"totp_code": right}),
        (expired, {"totp_code": right}),
        (live, {"totp_code": right}),
        ("x" * 8_192, {"totp_code": right}),
        ("é", {"recovery_code": "x"}),
        ("garbage", {"passkey_assertion": "x"}),
        (fresh, {"recovery_code": "x"}),
        (fresh, {"passkey_assertion": "{}"}),
    ):
        error = await failure(verify(timed, token, **factor))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        results.add((reason_of(error), error.details()))
    assert results == {(REFUSED, "The credentials are not valid.")}
    await verify(timed, fresh, totp_code=right)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("mfa_token", {"mfa_token": "", "totp_code": "123456"}),
        ("mfa_token", {"mfa_token": "x" * 8_193, "totp_code": "123456"}),
        ("factor", {"mfa_token": "x"}),
        ("totp_code", {"mfa_token": "x", "totp_code": ""}),
        ("totp_code", {"mfa_token": "x", "totp_code": "1" * 65}),
        ("recovery_code", {"mfa_token": "x", "recovery_code": "1\0"}),
        ("passkey_assertion", {"mfa_token": "x", "passkey_assertion": "x" * 16_385}),
        ("client.device_id", {"mfa_token": "x", "totp_code": "123456", "trust_device": True}),
    ],
)
async def test_invalid_fields_are_named(
    service: Service, field: str, request_: dict[str, Any]
) -> None:
    error = await failure(service.auth().VerifyMfa(VerifyMfaRequest(**request_)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_of(error) == [field]


async def test_trusted_device_skips_second_factor(timed: Service, clock: FakeClock) -> None:
    app, _ = await secure(timed, await timed.proved_session(), clock)
    token = (await challenge(timed)).mfa_token
    await verify(timed, token, totp_code=app.at(clock.now()), trust_device=True)
    tokens = await timed.login(device_id="phone")
    assert amr(tokens) == ["pwd"]
    request = LoginRequest(email=EMAIL, password=PASSWORD)
    assert (await timed.auth().Login(request)).HasField("mfa")


async def test_role_requiring_factor_forces_enrollment(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    settings = with_changes(live_settings, "second_factors", required_for_roles={"user"})
    service = await start_service(settings, clock)
    user_id = await service.register()
    early = LoginRequest(email=EMAIL, password=PASSWORD)
    assert await outcome(service.auth().Login(early)) == "EMAIL_NOT_VERIFIED"
    await service.prove(user_id)
    asked = await challenge(service)
    assert list(asked.methods) == ["totp"]
    app = pyotp.parse_uri(asked.totp_enrollment.otpauth_uri)
    assert isinstance(app, pyotp.TOTP)
    assert app.secret == asked.totp_enrollment.secret
    await verify(service, asked.mfa_token, totp_code=app.at(clock.now()))
    assert not (await challenge(service)).HasField("totp_enrollment")


async def test_other_callers_cannot_complete_login(service: Service) -> None:
    for caller in ("edge", "issuer", "admin", "observer"):
        call = verify(service, "x", caller, totp_code="123456")
        assert await outcome(call) == "CALLER_NOT_ALLOWED"
