"""Who is asked for a second factor, what the challenge allows, and what it is completed by."""

import asyncio
import base64
from datetime import timedelta

import pytest

from authsvc.store import devices
from tests.support.accounts import CALL, CLI, EMAIL, IP, OTHER_IP, WRONG
from tests.support.factors import Secured, reason, reasons, used
from tests.support.logins import PHONE, Replicas, causes, failures_of_devices

REFUSED = "CREDENTIALS_INVALID"


async def test_without_a_factor_one_proof_is_enough(secured: Secured) -> None:
    await secured.enroll(await secured.user())
    assert await secured.service.login() == "OK"


async def test_challenge_names_what_the_user_has(secured: Secured) -> None:
    ada = await secured.user()
    _, codes = await secured.secure(ada)
    challenge = await secured.challenge()
    assert challenge.methods == ("totp", "recovery_code")
    assert challenge.expire_time == secured.clock.now() + timedelta(minutes=5)
    assert (challenge.totp_enrollment, challenge.passkey_options) == (None, "")
    assert len(base64.urlsafe_b64decode(challenge.mfa_token + "=")) == 32
    assert challenge.mfa_token not in repr(challenge)
    async with secured.service.database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM challenges")
        for code in codes:
            await secured.recovery_codes.claim(connection, ada, code)
    assert row is not None
    assert (row["kind"], len(row["token_hash"])) == ("mfa", 32)
    assert challenge.mfa_token not in str(row)
    assert (await secured.challenge()).methods == ("totp",)


async def test_session_tells_how_its_user_logged_in(secured: Secured) -> None:
    app, (code, *_) = await secured.secure(await secured.user())
    tokens = await secured.verify((await secured.challenge()).mfa_token, app.code())
    session = await secured.service.sessions.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")
    tokens = await secured.verify((await secured.challenge()).mfa_token, used(code))
    session = await secured.service.sessions.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")


async def test_password_alone_opens_no_session(secured: Secured) -> None:
    await secured.secure(await secured.user())
    await secured.challenge(device=PHONE)
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 0
    assert await secured.fetchval("SELECT count(*) FROM devices") == 0
    assert await secured.events("user.login", "user.mfa_required") == {"user.mfa_required": 1}


async def test_token_works_once(secured: Secured) -> None:
    app, codes = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.verify(token, app.code())
    assert await reason(secured.verify(token, app.code(1))) == REFUSED
    assert await reason(secured.verify(token, used(codes[0]))) == REFUSED
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10


async def test_many_right_answers_at_once_open_one_session(secured: Secured) -> None:
    """With recovery codes: each would be right by itself."""
    _, codes = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    outcomes = await reasons(secured.verify(token, used(code)) for code in codes * 10)
    assert outcomes == {"OK": 1, REFUSED: 99}
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 1
    # Only the one that counted was used up.
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 9
    assert await secured.events("factor.recovery_code_use") == {"factor.recovery_code_use": 1}


async def test_parallel_guesses_never_exceed_the_attempts(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    assert await reasons(secured.verify(token, app.wrong()) for _ in range(100)) == {REFUSED: 100}
    assert await secured.fetchval("SELECT attempts FROM challenges") == 5
    assert await reason(secured.verify(token, app.code())) == REFUSED
    # What came too late was judged by nobody, and counts against nobody.
    recorded = await causes(secured.service.database)
    assert (
        sum(recorded[f"login_failure:{cause}"] for cause in ("factor", "unknown", "locked")) == 101
    )


@pytest.mark.parametrize("wrong", [0, 1, 4])
async def test_right_answer_after_wrong_ones(secured: Secured, wrong: int) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    for _ in range(wrong):
        assert await reason(secured.verify(token, app.wrong())) == REFUSED
    assert await secured.failed() == wrong
    await secured.verify(token, app.code())
    assert await secured.failed() == 0


async def test_token_expires(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    secured.clock.advance(300)
    assert await reason(secured.verify(token, app.code())) == REFUSED
    # It says no longer whose login it was, and so counts against nobody.
    assert await secured.failed() == 0
    token = (await secured.challenge()).mfa_token
    secured.clock.advance(299)
    await secured.verify(token, app.code())


async def test_unknown_tokens_count_against_nobody(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    for unknown in ("x", token[:-1], token + "A", token.swapcase(), "é" * 4_000):
        assert await reason(secured.verify(unknown, app.code())) == REFUSED
    assert await secured.failed() == 0
    assert (await causes(secured.service.database))["login_failure:unknown"] == 5
    await secured.verify(token, app.code())


async def test_a_token_is_for_its_own_user_s_factors(secured: Secured) -> None:
    await secured.secure(await secured.user())
    eves, codes = await secured.secure(await secured.user("eve@example.test"))
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, eves.code())) == REFUSED
    assert await reason(secured.verify(token, used(codes[0]))) == REFUSED
    query = "SELECT failed_logins FROM users WHERE email = $1"
    assert await secured.fetchval(query, EMAIL) == 2
    assert await secured.fetchval(query, "eve@example.test") == 0


async def test_password_makes_up_for_no_failed_factor(secured: Secured) -> None:
    """Or who knows the password could guess codes for ever (SP 800-63B-4, 3.2.2)."""
    app, _ = await secured.secure(await secured.user())
    for _ in range(10):
        token = (await secured.challenge()).mfa_token
        for _ in range(5):
            assert await reason(secured.verify(token, app.wrong())) == REFUSED
    assert await secured.failed() == 50
    assert await secured.service.login() == REFUSED
    await secured.fetchval("UPDATE users SET failed_logins = 49, failed_device_logins = 7")
    token = (await secured.challenge()).mfa_token
    assert await secured.failed() == 49
    assert await failures_of_devices(secured.service.database) == 7
    await secured.verify(token, app.code())
    assert await secured.failed() == 0
    assert await failures_of_devices(secured.service.database) == 0


async def test_locked_account_takes_no_factor(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.fetchval("UPDATE users SET failed_logins = 100")
    assert await reason(secured.verify(token, app.code())) == REFUSED
    await secured.fetchval("UPDATE users SET failed_logins = 0")
    # It was not used up, by an attempt that couldn't succeed.
    await secured.verify(token, app.code())


async def test_factors_are_guessed_under_the_limits_of_all_logins(replicas: Replicas) -> None:
    secured = Secured(await replicas.start())
    app, _ = await secured.secure(await secured.user())
    tokens = [(await secured.challenge()).mfa_token for _ in range(4)]
    outcomes = [await reason(secured.verify(token, app.wrong())) for token in tokens * 5]
    assert outcomes.count(REFUSED) == 5
    assert set(outcomes[5:]) == {"TOO_MANY_ATTEMPTS"}
    assert await secured.service.login() == "TOO_MANY_ATTEMPTS"
    assert await reason(secured.verify(tokens[0], app.code())) == "TOO_MANY_ATTEMPTS"
    assert await reason(secured.verify(tokens[0], app.code(), ip=OTHER_IP)) == "OK"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET status = 'disabled'",
        "DELETE FROM users",
        "UPDATE factors SET confirm_time = NULL",
    ],
)
async def test_what_changed_meanwhile_counts(secured: Secured, change: str) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.fetchval(change)
    assert await reason(secured.verify(token, app.code())) == REFUSED
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 0


async def test_logins_under_way_end_with_what_they_were_begun_with(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    token = (await secured.challenge()).mfa_token
    async with secured.service.database.transaction() as connection:
        await devices.forget_trust(connection, ada)
    assert await reason(secured.verify(token, app.code())) == REFUSED
    await secured.verify((await secured.challenge()).mfa_token, app.code())


async def test_challenges_don_t_pile_up(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    first = await secured.challenge()
    last = [await secured.challenge() for _ in range(20)]
    assert await secured.fetchval("SELECT count(*) FROM challenges") == 20
    assert await reason(secured.verify(first.mfa_token, app.code())) == REFUSED
    await secured.verify(last[0].mfa_token, app.code())


async def test_second_step_may_come_from_elsewhere(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE, ip=IP)).mfa_token
    tokens = await secured.verify(token, app.code(), device="laptop", ip=OTHER_IP)
    session = await secured.service.sessions.get(tokens.session_id)
    assert (session.client.device_id, session.client.ip) == ("laptop", OTHER_IP)


async def test_known_device_gives_its_factor_while_strangers_fail(replicas: Replicas) -> None:
    secured = Secured(await replicas.start())
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE)
    secured.clock.advance(30)
    for _ in range(12):
        await secured.service.login(WRONG, ip=OTHER_IP)
    token = (await secured.challenge(device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE)


async def test_challenge_and_answer_race_with_the_removal_of_the_factor(secured: Secured) -> None:
    """Either the login was completed before, or it is refused: no third way, and no deadlock."""
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    challenges = await asyncio.gather(*(secured.challenge() for _ in range(10)))
    removal = secured.own.remove(CALL, secured.claims(ada), app.factor_id)
    verifications = (secured.verify(one.mfa_token, app.code()) for one in challenges)
    removed, *outcomes = await asyncio.gather(reason(removal), *map(reason, verifications))
    assert removed == "OK"
    assert set(outcomes) <= {"OK", REFUSED}
    assert outcomes.count("OK") <= 1


async def test_login_that_waits_ends_when_the_account_is_disabled(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    waiting = await secured.challenge()
    await secured.service.accounts.disable(CLI, ada)
    await secured.service.accounts.enable(CLI, ada)
    assert await reason(secured.verify(waiting.mfa_token, app.code())) == REFUSED
