"""Roles that require a second factor: a user without one enrolls it during the login."""

import json

import pytest

from authsvc.config import SecondFactorSettings
from authsvc.core.accounts.accounts import NewUser
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from tests.support.accounts import CALL, EMAIL, IP, PASSWORD, WRONG, unlimited
from tests.support.factors import App, Secured, reason, reasons
from tests.support.logins import Replicas, causes

REFUSED = "CREDENTIALS_INVALID"


@pytest.mark.slow
async def test_role_requiring_factor_forces_enrollment_at_login(required: Secured) -> None:
    ada = await required.user()
    challenge = await required.challenge()
    assert challenge.methods == ("totp",)
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    assert await reason(required.verify(challenge.mfa_token, app.wrong())) == REFUSED
    assert (await required.own.list(ada))[0] == []
    tokens = await required.verify(challenge.mfa_token, app.code())
    session = await required.service.sessions.listing.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")
    (factor,), codes_left = await required.own.list(ada)
    assert (factor.factor_id, codes_left) == (app.factor_id, 0)
    assert await required.notices() == ["factor_added"]
    assert await required.events("factor.enroll") == {"factor.enroll": 1}
    # From now on it is required.
    required.clock.advance(30)
    challenge = await required.challenge()
    assert (challenge.methods, challenge.totp_enrollment) == (("totp",), None)
    await required.verify(challenge.mfa_token, app.code())
    assert len(await required.own.generate_recovery_codes(CALL, required.claims(ada))) == 10


async def test_other_roles_require_no_factor(replicas: Replicas) -> None:
    settings = SecondFactorSettings(required_for_roles=frozenset({"operator"}))
    service = await replicas.start(unlimited(), factor_settings=settings)
    await Secured(service).user()
    assert await service.login() == "OK"
    await Secured(service).fetchval("UPDATE users SET roles = '{user,operator}'")
    client = ClientContext(IP)
    outcome = await service.password_login.log_in(CALL, EMAIL, PASSWORD, client)
    assert isinstance(outcome, MfaChallenge)


@pytest.mark.parametrize("verified", [False, True])
async def test_user_created_by_operator_enrolls_if_address_is_verified(
    required: Secured, verified: bool
) -> None:
    email, client = "grace@example.test", ClientContext(IP)
    user = NewUser(email, PASSWORD, verified=verified)
    await required.service.accounts.create_user(CALL, user)
    login = required.service.password_login.log_in(CALL, email, PASSWORD, client)
    assert await reason(login) == ("OK" if verified else "EMAIL_NOT_VERIFIED")


@pytest.mark.slow
async def test_enrollment_at_login_is_confirmed_once(required: Secured) -> None:
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    calls = (required.verify(challenge.mfa_token, app.code()) for _ in range(50))
    assert await reasons(calls) == {"OK": 1, REFUSED: 49}
    assert await required.fetchval("SELECT count(*) FROM sessions") == 1
    assert await required.events("factor.enroll") == {"factor.enroll": 1}


async def test_pending_enrollment_does_not_bypass_later_factor(required: Secured) -> None:
    """With the password, anyone can start one; once the user has a factor, it is worthless."""
    ada = await required.user()
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    thief = App.scan(challenge.totp_enrollment, required.clock)
    await required.fetchval(
        "INSERT INTO factors (factor_id, user_id, kind, create_time, confirm_time, credential_id,"
        " public_key, sign_count) VALUES (gen_random_uuid(), $1, 'passkey', now(), now(), '', '',"
        " 0)",
        ada,
    )
    await required.fetchval("UPDATE users SET has_second_factor = true")
    assert await reason(required.verify(challenge.mfa_token, thief.code())) == REFUSED
    assert len((await required.own.list(ada))[0]) == 1


async def test_later_enrollment_replaces_that_of_another_login(required: Secured) -> None:
    first, second = await required.challenge(), await required.challenge()
    assert first.totp_enrollment is not None
    assert second.totp_enrollment is not None
    old = App.scan(first.totp_enrollment, required.clock)
    new = App.scan(second.totp_enrollment, required.clock)
    assert await reason(required.verify(first.mfa_token, old.code())) == REFUSED
    assert await reason(required.verify(first.mfa_token, new.code())) == REFUSED
    await required.verify(second.mfa_token, new.code())


@pytest.mark.slow
async def test_wrong_enrollment_codes_are_counted(required: Secured) -> None:
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    calls = (required.verify(challenge.mfa_token, app.wrong()) for _ in range(20))
    assert await reasons(calls) == {REFUSED: 20}
    assert await required.fetchval("SELECT attempts FROM challenges") == 5
    assert 5 <= json.loads(str(await required.failed())) <= 20


@pytest.mark.slow
async def test_enrollment_requires_verified_address(required: Secured) -> None:
    ada = await required.user()
    await required.prove(ada, proved=False)
    assert await required.service.login() == "EMAIL_NOT_VERIFIED"
    assert await required.service.login(WRONG) == REFUSED
    for table in ("challenges", "factors", "sessions"):
        assert await required.fetchval(f"SELECT count(*) FROM {table}") == 0
    # The right password was not a failure to count, but one to record.
    assert await required.failed() == 1
    recorded = await causes(required.service.database)
    assert recorded == {"login_failure:unverified": 1, "login_failure:password": 1}
    await required.prove(ada)
    await required.challenge()


@pytest.mark.slow
async def test_enrollment_completion_requires_verified_address(
    required: Secured,
) -> None:
    """The enrollment may have been started by the previous version."""
    ada = await required.user()
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    await required.prove(ada, proved=False)
    for code in (app.code(), app.wrong()):
        assert await reason(required.verify(challenge.mfa_token, code)) == "EMAIL_NOT_VERIFIED"
    assert (await required.own.list(ada))[0] == []
    assert await required.fetchval("SELECT has_second_factor FROM users") is False
    assert await required.events("factor.enroll") == {}
    await required.prove(ada)
    await required.verify(challenge.mfa_token, app.code())
