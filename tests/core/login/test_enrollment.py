"""Roles that need a second factor: whoever has none enrols one with the login, and then has it."""

import json

import pytest

from authsvc.config import SecondFactorSettings
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from tests.support.accounts import CALL, EMAIL, IP, PASSWORD, WRONG, unlimited
from tests.support.factors import App, Secured, reason, reasons
from tests.support.logins import Replicas, causes

REFUSED = "CREDENTIALS_INVALID"


async def test_role_that_needs_a_factor_makes_its_users_enrol_one(required: Secured) -> None:
    ada = await required.user()
    challenge = await required.challenge()
    assert challenge.methods == ("totp",)
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    assert await reason(required.verify(challenge.mfa_token, app.wrong())) == REFUSED
    assert (await required.own.list(ada))[0] == []
    tokens = await required.verify(challenge.mfa_token, app.code())
    session = await required.service.sessions.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")
    (factor,), codes_left = await required.own.list(ada)
    assert (factor.factor_id, codes_left) == (app.factor_id, 0)
    assert await required.notices() == ["factor_added"]
    assert await required.events("factor.enroll") == {"factor.enroll": 1}
    # From now on it is asked for.
    required.clock.advance(30)
    challenge = await required.challenge()
    assert (challenge.methods, challenge.totp_enrollment) == (("totp",), None)
    await required.verify(challenge.mfa_token, app.code())
    assert len(await required.own.generate_recovery_codes(CALL, required.claims(ada))) == 10


async def test_other_roles_need_no_factor(replicas: Replicas) -> None:
    settings = SecondFactorSettings(required_for_roles=frozenset({"operator"}))
    service = await replicas.start(unlimited(), factor_settings=settings)
    await Secured(service).user()
    assert await service.login() == "OK"
    await Secured(service).fetchval("UPDATE users SET roles = '{user,operator}'")
    client = ClientContext(IP)
    outcome = await service.password_login.login(CALL, EMAIL, PASSWORD, client)
    assert isinstance(outcome, MfaChallenge)


@pytest.mark.parametrize("verified", [False, True])
async def test_a_user_whom_an_operator_made_enrols_one_if_the_address_is_known(
    required: Secured, verified: bool
) -> None:
    email, client = "grace@example.test", ClientContext(IP)
    await required.service.accounts.create_user(CALL, email, PASSWORD, verified=verified)
    login = required.service.password_login.login(CALL, email, PASSWORD, client)
    assert await reason(login) == ("OK" if verified else "EMAIL_NOT_VERIFIED")


async def test_enrolment_at_login_is_confirmed_once(required: Secured) -> None:
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    calls = (required.verify(challenge.mfa_token, app.code()) for _ in range(50))
    assert await reasons(calls) == {"OK": 1, REFUSED: 49}
    assert await required.fetchval("SELECT count(*) FROM sessions") == 1
    assert await required.events("factor.enroll") == {"factor.enroll": 1}


async def test_enrolment_begun_before_is_no_way_round_a_factor(required: Secured) -> None:
    """Who knows the password can begin one; once the user has a factor, it is worthless."""
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


async def test_later_enrolment_replaces_the_one_of_another_login(required: Secured) -> None:
    first, second = await required.challenge(), await required.challenge()
    assert first.totp_enrollment is not None
    assert second.totp_enrollment is not None
    old = App.scan(first.totp_enrollment, required.clock)
    new = App.scan(second.totp_enrollment, required.clock)
    assert await reason(required.verify(first.mfa_token, old.code())) == REFUSED
    assert await reason(required.verify(first.mfa_token, new.code())) == REFUSED
    await required.verify(second.mfa_token, new.code())


async def test_wrong_codes_of_an_enrolment_are_counted(required: Secured) -> None:
    challenge = await required.challenge()
    assert challenge.totp_enrollment is not None
    app = App.scan(challenge.totp_enrollment, required.clock)
    calls = (required.verify(challenge.mfa_token, app.wrong()) for _ in range(20))
    assert await reasons(calls) == {REFUSED: 20}
    assert await required.fetchval("SELECT attempts FROM challenges") == 5
    assert 5 <= json.loads(str(await required.failed())) <= 20


async def test_nobody_enrols_for_an_address_that_was_not_proved(required: Secured) -> None:
    ada = await required.user()
    await required.prove(ada, proved=False)
    assert await required.service.login() == "EMAIL_NOT_VERIFIED"
    assert await required.service.login(WRONG) == REFUSED
    for table in ("challenges", "factors", "sessions"):
        assert await required.fetchval(f"SELECT count(*) FROM {table}") == 0
    # The right password was no failure to count, but one to know of.
    assert await required.failed() == 1
    recorded = await causes(required.service.database)
    assert recorded == {"login_failure:unverified": 1, "login_failure:password": 1}
    await required.prove(ada)
    await required.challenge()


async def test_no_enrolment_is_completed_for_an_address_that_was_not_proved(
    required: Secured,
) -> None:
    """Such as one that was begun by the version before."""
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
