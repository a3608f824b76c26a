"""Second factors: who has to present one, what a challenge allows, and what completes it."""

import asyncio
import base64
from datetime import timedelta

import pytest

from authsvc.store import devices
from tests.support.accounts import CALL, CLI, EMAIL, IP, OTHER_IP, WRONG
from tests.support.clock import FakeClock
from tests.support.factors import Secured, reason, reasons, used
from tests.support.logins import PHONE, Replicas, causes, failures_of_devices

REFUSED = "CREDENTIALS_INVALID"


async def test_login_without_factor_needs_one_proof(secured: Secured) -> None:
    await secured.enroll(await secured.user())
    assert await secured.service.login() == "OK"


async def test_challenge_lists_factors_of_user(secured: Secured) -> None:
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


async def test_session_records_authentication_methods(secured: Secured) -> None:
    app, (code, *_) = await secured.secure(await secured.user())
    tokens = await secured.verify((await secured.challenge()).mfa_token, app.code())
    session = await secured.service.sessions.listing.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")
    tokens = await secured.verify((await secured.challenge()).mfa_token, used(code))
    session = await secured.service.sessions.listing.get(tokens.session_id)
    assert session.authentication_methods == ("pwd", "otp", "mfa")


async def test_verified_factor_sets_last_login_time(secured: Secured, clock: FakeClock) -> None:
    app, _ = await secured.secure(await secured.user())
    challenge = await secured.challenge()
    clock.advance(60)
    await secured.verify(challenge.mfa_token, app.code())
    assert await secured.fetchval("SELECT last_login_time FROM users") == clock.now()


async def test_password_alone_opens_no_session(secured: Secured) -> None:
    await secured.secure(await secured.user())
    await secured.challenge(device=PHONE)
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 0
    assert await secured.fetchval("SELECT count(*) FROM devices") == 0
    assert await secured.events("user.login", "user.mfa_required") == {"user.mfa_required": 1}


@pytest.mark.slow
async def test_token_works_once(secured: Secured) -> None:
    app, codes = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.verify(token, app.code())
    assert await reason(secured.verify(token, app.code(1))) == REFUSED
    assert await reason(secured.verify(token, used(codes[0]))) == REFUSED
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10


@pytest.mark.slow
async def test_concurrent_correct_answers_open_one_session(secured: Secured) -> None:
    """With recovery codes, each of which would be right on its own."""
    _, codes = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    outcomes = await reasons(secured.verify(token, used(code)) for code in codes * 10)
    assert outcomes == {"OK": 1, REFUSED: 99}
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 1
    # Only the one that counted was used up.
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 9
    assert await secured.events("factor.recovery_code_use") == {"factor.recovery_code_use": 1}


@pytest.mark.slow
async def test_concurrent_guesses_never_exceed_allowed_attempts(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    assert await reasons(secured.verify(token, app.wrong()) for _ in range(100)) == {REFUSED: 100}
    assert await secured.fetchval("SELECT attempts FROM challenges") == 5
    assert await reason(secured.verify(token, app.code())) == REFUSED
    # Guesses that came too late were not evaluated, and count against nobody.
    recorded = await causes(secured.service.database)
    assert (
        sum(recorded[f"login_failure:{cause}"] for cause in ("factor", "unknown", "locked")) == 101
    )


@pytest.mark.parametrize("wrong", [0, 1, 4])
async def test_correct_answer_succeeds_after_wrong_ones(secured: Secured, wrong: int) -> None:
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
    # An expired token no longer identifies a user, and so counts against nobody.
    assert await secured.failed() == 0
    token = (await secured.challenge()).mfa_token
    secured.clock.advance(299)
    await secured.verify(token, app.code())


async def test_unknown_tokens_count_against_no_account(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    for unknown in ("x", token[:-1], token + "A", token.swapcase(), "é" * 4_000):
        assert await reason(secured.verify(unknown, app.code())) == REFUSED
    assert await secured.failed() == 0
    assert (await causes(secured.service.database))["login_failure:unknown"] == 5
    await secured.verify(token, app.code())


async def test_token_accepts_only_factors_of_its_user(secured: Secured) -> None:
    await secured.secure(await secured.user())
    eves, codes = await secured.secure(await secured.user("eve@example.test"))
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, eves.code())) == REFUSED
    assert await reason(secured.verify(token, used(codes[0]))) == REFUSED
    query = "SELECT failed_logins FROM users WHERE email = $1"
    assert await secured.fetchval(query, EMAIL) == 2
    assert await secured.fetchval(query, "eve@example.test") == 0


@pytest.mark.slow
async def test_correct_password_does_not_reset_factor_failures(secured: Secured) -> None:
    """Otherwise, with the password, codes could be guessed forever (SP 800-63B-4, 3.2.2)."""
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


async def test_locked_account_accepts_no_factor(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.fetchval("UPDATE users SET failed_logins = 100")
    assert await reason(secured.verify(token, app.code())) == REFUSED
    await secured.fetchval("UPDATE users SET failed_logins = 0")
    # The code was not used up by an attempt that couldn't succeed.
    await secured.verify(token, app.code())


@pytest.mark.slow
async def test_factor_guesses_share_login_limits(replicas: Replicas) -> None:
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
async def test_account_change_during_challenge_rejects_answer(
    secured: Secured, change: str
) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await secured.fetchval(change)
    assert await reason(secured.verify(token, app.code())) == REFUSED
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 0


async def test_pending_logins_end_when_trust_is_revoked(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    token = (await secured.challenge()).mfa_token
    async with secured.service.database.transaction() as connection:
        await devices.forget_trust(connection, ada)
    assert await reason(secured.verify(token, app.code())) == REFUSED
    await secured.verify((await secured.challenge()).mfa_token, app.code())


@pytest.mark.slow
async def test_pending_challenges_are_bounded(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    first = await secured.challenge()
    last = [await secured.challenge() for _ in range(20)]
    assert await secured.fetchval("SELECT count(*) FROM challenges") == 20
    assert await reason(secured.verify(first.mfa_token, app.code())) == REFUSED
    await secured.verify(last[0].mfa_token, app.code())


async def test_second_step_may_come_from_another_device_and_ip(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE, ip=IP)).mfa_token
    tokens = await secured.verify(token, app.code(), device="laptop", ip=OTHER_IP)
    session = await secured.service.sessions.listing.get(tokens.session_id)
    assert (session.client.device_id, session.client.ip) == ("laptop", OTHER_IP)


async def test_known_device_passes_factor_while_strangers_fail(replicas: Replicas) -> None:
    secured = Secured(await replicas.start())
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE)
    secured.clock.advance(30)
    for _ in range(12):
        await secured.service.login(WRONG, ip=OTHER_IP)
    token = (await secured.challenge(device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE)


@pytest.mark.slow
async def test_factor_removal_during_answers_never_deadlocks(secured: Secured) -> None:
    """A login is either completed before the removal or rejected, and there is no deadlock."""
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    challenges = await asyncio.gather(*(secured.challenge() for _ in range(10)))
    removal = secured.own.remove(CALL, secured.claims(ada), app.factor_id)
    verifications = (secured.verify(one.mfa_token, app.code()) for one in challenges)
    removed, *outcomes = await asyncio.gather(reason(removal), *map(reason, verifications))
    assert removed == "OK"
    assert set(outcomes) <= {"OK", REFUSED}
    assert outcomes.count("OK") <= 1


async def test_disabling_account_ends_pending_login(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    waiting = await secured.challenge()
    await secured.service.accounts.disable(CLI, ada)
    await secured.service.accounts.enable(CLI, ada)
    assert await reason(secured.verify(waiting.mfa_token, app.code())) == REFUSED
