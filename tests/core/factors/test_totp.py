"""Authenticator apps: what is enrolled, which codes are right, and that each is right once."""

import asyncio
import base64
from datetime import timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest

from authsvc.core.lib.sealing import SealError
from authsvc.store.factors import FactorKind
from tests.support.accounts import EMAIL, KEYRING
from tests.support.factors import STEP, Secured, reason, reasons

CODE_INVALID = "CODE_INVALID"
REFUSED = "CREDENTIALS_INVALID"


async def test_enrolment_shows_a_seed_that_apps_understand(secured: Secured) -> None:
    ada = await secured.user()
    enrollment = await secured.totp.enroll(secured.claims(ada), "phone")
    assert len(base64.b32decode(enrollment.secret)) == 20
    address = urlsplit(enrollment.otpauth_uri)
    assert (address.scheme, address.netloc) == ("otpauth", "totp")
    assert unquote(address.path) == f"/authsvc:{EMAIL}"
    # SHA-1, six digits and 30 seconds are what is meant if nothing is said.
    assert parse_qs(address.query) == {"secret": [enrollment.secret], "issuer": ["authsvc"]}
    assert enrollment.secret not in repr(enrollment)
    assert (await secured.own.list(ada))[0] == []
    assert await secured.fetchval("SELECT has_second_factor FROM users") is False


async def test_seed_is_sealed_for_its_row(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    sealed = await secured.fetchval("SELECT sealed_seed FROM factors")
    assert isinstance(sealed, bytes)
    secret = base64.b32decode(app.secret)
    assert secret not in sealed
    place = {"table": "factors", "column": "sealed_seed"}
    assert KEYRING.open(sealed, row=str(app.factor_id), **place) == secret
    with pytest.raises(SealError):
        KEYRING.open(sealed, row=str(ada), **place)


async def test_confirmed_app_counts(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada, "phone")
    codes = await secured.confirm(ada, app)
    assert len(codes) == 10
    (factor,), left = await secured.own.list(ada)
    assert (factor.factor_id, factor.kind, factor.name) == (app.factor_id, FactorKind.TOTP, "phone")
    assert (factor.create_time, factor.last_use_time) == (secured.clock.now(), None)
    assert left == 10
    assert await secured.fetchval("SELECT has_second_factor FROM users") is True
    assert await secured.notices() == ["factor_added"]
    assert await secured.events("factor.enroll") == {"factor.enroll": 1}
    # A second one needs no more recovery codes.
    assert await secured.confirm(ada, await secured.enroll(ada)) == []


async def test_wrong_code_confirms_nothing_and_counts_as_a_failure(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    wrong = (app.wrong(), " ", "x", "\uff11\uff12\uff13", app.code() + "0", "\ud7ff", "0" * 1_000)
    for code in wrong:
        assert await reason(secured.confirm(ada, app, code)) == CODE_INVALID
    assert await secured.failed() == 7
    assert (await secured.own.list(ada))[0] == []
    assert await secured.notices() == []
    # The right one is none of them, and makes up for none of them: it is not a login.
    await secured.confirm(ada, app)
    assert await secured.failed() == 7


async def test_code_is_refused_while_the_account_is_locked(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    await secured.fetchval("UPDATE users SET failed_logins = 100")
    assert await reason(secured.confirm(ada, app)) == CODE_INVALID
    assert (await secured.own.list(ada))[0] == []


async def test_an_app_is_confirmed_once(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    assert await reasons(secured.confirm(ada, app) for _ in range(20)) == {
        "OK": 1,
        "FACTOR_NOT_FOUND": 19,
    }
    assert await secured.events("factor.enroll") == {"factor.enroll": 1}
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10
    assert await secured.failed() == 0


async def test_new_enrolment_replaces_what_was_not_confirmed(secured: Secured) -> None:
    ada = await secured.user()
    first = await secured.enroll(ada)
    second = await secured.enroll(ada)
    assert await reason(secured.confirm(ada, first)) == "FACTOR_NOT_FOUND"
    await secured.confirm(ada, second)
    await secured.enroll(ada)
    assert await secured.fetchval("SELECT count(*) FROM factors") == 2


async def test_an_app_is_its_user_s(secured: Secured) -> None:
    ada, eve = await secured.user(), await secured.user("eve@example.test")
    app = await secured.enroll(ada)
    assert await reason(secured.confirm(eve, app)) == "FACTOR_NOT_FOUND"
    assert await secured.fetchval("SELECT sum(failed_logins) FROM users") == 0
    await secured.confirm(ada, app)


async def test_there_are_no_more_apps_than_the_settings_allow(secured: Secured) -> None:
    ada = await secured.user()
    for _ in range(9):
        await secured.confirm(ada, await secured.enroll(ada))
    app = await secured.enroll(ada)
    # A passkey may come in between.
    await secured.fetchval(
        "INSERT INTO factors (factor_id, user_id, kind, create_time, confirm_time, credential_id,"
        " public_key, sign_count) VALUES (gen_random_uuid(), $1, 'passkey', now(), now(), '', '',"
        " 0)",
        ada,
    )
    assert await reason(secured.confirm(ada, app)) == "LIMIT_REACHED"
    assert await reason(secured.enroll(ada)) == "LIMIT_REACHED"
    assert len((await secured.own.list(ada))[0]) == 10


@pytest.mark.parametrize(
    ("steps", "outcome"), [(-2, REFUSED), (-1, "OK"), (0, "OK"), (1, "OK"), (2, REFUSED)]
)
async def test_codes_of_one_step_around_now_are_right(
    secured: Secured, steps: int, outcome: str
) -> None:
    app, _ = await secured.secure(await secured.user())
    secured.clock.advance(10 * STEP)
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, app.code(steps))) == outcome


async def test_codes_are_those_of_rfc_6238(secured: Secured) -> None:
    """Section 5.2 and Appendix B: the seed in ASCII, SHA-1, time 1111111109, six of its digits."""
    ada = await secured.user()
    app = await secured.enroll(ada)
    sealed = KEYRING.seal(
        b"12345678901234567890", table="factors", column="sealed_seed", row=str(app.factor_id)
    )
    await secured.fetchval("UPDATE factors SET sealed_seed = $1", sealed)
    secured.clock.advance(1_111_111_109 - secured.clock.now().timestamp())
    assert len(await secured.confirm(ada, app, "081804")) == 10


async def test_blanks_and_hyphens_in_a_code_are_ignored(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    code = app.code()
    await secured.verify((await secured.challenge()).mfa_token, f" {code[:3]} {code[3:]}")


async def test_a_step_is_accepted_once_and_none_before_it(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    code = app.code()
    await secured.confirm(ada, app)
    # Neither the code that confirmed the app, nor one before it.
    for used in (code, app.code(-1)):
        token = (await secured.challenge()).mfa_token
        assert await reason(secured.verify(token, used)) == REFUSED
    ahead = app.code(1)
    await secured.verify((await secured.challenge()).mfa_token, ahead)
    secured.clock.advance(STEP)
    for used in (code, ahead):
        token = (await secured.challenge()).mfa_token
        assert await reason(secured.verify(token, used)) == REFUSED
    await secured.verify((await secured.challenge()).mfa_token, app.code(1))


async def test_a_clock_that_is_set_back_brings_no_step_back(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    code = app.code()
    await secured.verify((await secured.challenge()).mfa_token, code)
    secured.clock.advance(timedelta(hours=-1))
    for used in (code, app.code()):
        token = (await secured.challenge()).mfa_token
        assert await reason(secured.verify(token, used)) == REFUSED


async def test_one_code_for_many_logins_at_once_completes_one(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    challenges = await asyncio.gather(*(secured.challenge() for _ in range(20)))
    code = app.code()
    calls = (secured.verify(challenge.mfa_token, code) for challenge in challenges * 5)
    outcomes = await reasons(calls)
    assert outcomes == {"OK": 1, REFUSED: 99}
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 1


async def test_each_of_several_apps_works_by_itself(secured: Secured) -> None:
    ada = await secured.user()
    apps = [(await secured.secure(ada))[0] for _ in range(3)]
    for app in apps:
        await secured.verify((await secured.challenge()).mfa_token, app.code())
    used = [factor.last_use_time for factor in (await secured.own.list(ada))[0]]
    assert used == [secured.clock.now()] * 3


async def test_seed_is_not_told_again(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    challenge = await secured.challenge()
    assert challenge.totp_enrollment is None
    assert app.secret not in repr(challenge)
    assert pyotp.TOTP(app.secret).digits == 6
