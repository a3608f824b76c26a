"""Authenticator apps: enrolment, right and wrong codes, and single use."""

import asyncio
import base64
from datetime import timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest

from authsvc.core.lib.sealing import SealError
from authsvc.models.factors import FactorKind
from tests.support.accounts import EMAIL, KEYRING
from tests.support.factors import STEP, Secured, reason, reasons

CODE_INVALID = "CODE_INVALID"
REFUSED = "CREDENTIALS_INVALID"


async def test_enrollment_returns_seed_that_apps_understand(secured: Secured) -> None:
    ada = await secured.user()
    enrollment = await secured.totp.enroll(secured.claims(ada), "phone")
    assert len(base64.b32decode(enrollment.secret)) == 20
    address = urlsplit(enrollment.otpauth_uri)
    assert (address.scheme, address.netloc) == ("otpauth", "totp")
    assert unquote(address.path) == f"/authsvc:{EMAIL}"
    # SHA-1, six digits and 30 seconds are the defaults.
    assert parse_qs(address.query) == {"secret": [enrollment.secret], "issuer": ["authsvc"]}
    assert enrollment.secret not in repr(enrollment)
    assert (await secured.own.list(ada))[0] == []
    assert await secured.fetchval("SELECT has_second_factor FROM users") is False


@pytest.mark.slow
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


async def test_confirmed_app_becomes_second_factor(secured: Secured) -> None:
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
    # A second app brings no new recovery codes.
    assert await secured.confirm(ada, await secured.enroll(ada)) == []


@pytest.mark.slow
async def test_wrong_code_confirms_nothing_and_counts_as_failure(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    wrong = (app.wrong(), " ", "x", "\uff11\uff12\uff13", app.code() + "0", "\ud7ff", "0" * 1_000)
    for code in wrong:
        assert await reason(secured.confirm(ada, app, code)) == CODE_INVALID
    assert await secured.failed() == 7
    assert (await secured.own.list(ada))[0] == []
    assert await secured.notices() == []
    # The right one is no failure, but as it is not a login it resets none either.
    await secured.confirm(ada, app)
    assert await secured.failed() == 7


@pytest.mark.slow
async def test_code_is_rejected_while_account_is_locked(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    await secured.fetchval("UPDATE users SET failed_logins = 100")
    assert await reason(secured.confirm(ada, app)) == CODE_INVALID
    assert (await secured.own.list(ada))[0] == []


@pytest.mark.slow
async def test_app_is_confirmed_once(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    assert await reasons(secured.confirm(ada, app) for _ in range(20)) == {
        "OK": 1,
        "FACTOR_NOT_FOUND": 19,
    }
    assert await secured.events("factor.enroll") == {"factor.enroll": 1}
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10
    assert await secured.failed() == 0


@pytest.mark.slow
async def test_new_enrollment_replaces_unconfirmed_one(secured: Secured) -> None:
    ada = await secured.user()
    first = await secured.enroll(ada)
    second = await secured.enroll(ada)
    assert await reason(secured.confirm(ada, first)) == "FACTOR_NOT_FOUND"
    await secured.confirm(ada, second)
    await secured.enroll(ada)
    assert await secured.fetchval("SELECT count(*) FROM factors") == 2


@pytest.mark.slow
async def test_app_can_be_confirmed_only_by_its_user(secured: Secured) -> None:
    ada, eve = await secured.user(), await secured.user("eve@example.test")
    app = await secured.enroll(ada)
    assert await reason(secured.confirm(eve, app)) == "FACTOR_NOT_FOUND"
    assert await secured.fetchval("SELECT sum(failed_logins) FROM users") == 0
    await secured.confirm(ada, app)


@pytest.mark.slow
async def test_number_of_factors_is_limited(secured: Secured) -> None:
    ada = await secured.user()
    for _ in range(9):
        await secured.confirm(ada, await secured.enroll(ada))
    app = await secured.enroll(ada)
    # A passkey may be registered in between.
    await secured.fetchval(
        "INSERT INTO factors (factor_id, user_id, kind, create_time, confirm_time, credential_id,"
        " public_key, sign_count) VALUES (gen_random_uuid(), $1, 'passkey', now(), now(), '', '',"
        " 0)",
        ada,
    )
    assert await reason(secured.confirm(ada, app)) == "LIMIT_REACHED"
    assert await reason(secured.enroll(ada)) == "LIMIT_REACHED"
    assert len((await secured.own.list(ada))[0]) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "outcome"), [(-2, REFUSED), (-1, "OK"), (0, "OK"), (1, "OK"), (2, REFUSED)]
)
async def test_codes_within_one_step_are_accepted(
    secured: Secured, steps: int, outcome: str
) -> None:
    app, _ = await secured.secure(await secured.user())
    secured.clock.advance(10 * STEP)
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, app.code(steps))) == outcome


@pytest.mark.slow
async def test_codes_match_rfc_6238_test_vector(secured: Secured) -> None:
    """Section 5.2 and Appendix B: the seed in ASCII, SHA-1, time 1111111109, six of its digits."""
    ada = await secured.user()
    app = await secured.enroll(ada)
    sealed = KEYRING.seal(
        b"12345678901234567890", table="factors", column="sealed_seed", row=str(app.factor_id)
    )
    await secured.fetchval("UPDATE factors SET sealed_seed = $1", sealed)
    secured.clock.advance(1_111_111_109 - secured.clock.now().timestamp())
    assert len(await secured.confirm(ada, app, "081804")) == 10


@pytest.mark.slow
async def test_spaces_and_hyphens_in_code_are_ignored(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    code = app.code()
    await secured.verify((await secured.challenge()).mfa_token, f" {code[:3]} {code[3:]}")


async def test_step_is_accepted_once_and_earlier_steps_never(secured: Secured) -> None:
    ada = await secured.user()
    app = await secured.enroll(ada)
    code = app.code()
    await secured.confirm(ada, app)
    # Neither the code that confirmed the app nor an earlier one works.
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


@pytest.mark.slow
async def test_clock_set_back_does_not_allow_replay(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    code = app.code()
    await secured.verify((await secured.challenge()).mfa_token, code)
    secured.clock.advance(timedelta(hours=-1))
    for used in (code, app.code()):
        token = (await secured.challenge()).mfa_token
        assert await reason(secured.verify(token, used)) == REFUSED


@pytest.mark.slow
async def test_one_code_completes_one_of_many_concurrent_logins(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    challenges = await asyncio.gather(*(secured.challenge() for _ in range(20)))
    code = app.code()
    calls = (secured.verify(challenge.mfa_token, code) for challenge in challenges * 5)
    outcomes = await reasons(calls)
    assert outcomes == {"OK": 1, REFUSED: 99}
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 1


@pytest.mark.slow
async def test_each_of_several_apps_works(secured: Secured) -> None:
    ada = await secured.user()
    apps = [(await secured.secure(ada))[0] for _ in range(3)]
    for app in apps:
        await secured.verify((await secured.challenge()).mfa_token, app.code())
    used = [factor.last_use_time for factor in (await secured.own.list(ada))[0]]
    assert used == [secured.clock.now()] * 3


@pytest.mark.slow
async def test_seed_is_not_shown_after_confirmation(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    challenge = await secured.challenge()
    assert challenge.totp_enrollment is None
    assert app.secret not in repr(challenge)
    assert pyotp.TOTP(app.secret).digits == 6
