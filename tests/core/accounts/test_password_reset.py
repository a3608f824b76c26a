"""Password resets by mail: once, for the address's account, and bypassing nothing else."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.errors import FieldInvalid, Overloaded, Reason
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from authsvc.models.messages import Delivery
from authsvc.models.sessions import RevokeReason
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL, CLI, EMAIL, IP, PASSWORD, Service
from tests.support.clock import FakeClock
from tests.support.codes import NEW_PASSWORD, REFUSED, WRONG_CODE, Coded, outcome, outcomes
from tests.support.factors import Secured
from tests.support.logins import PHONE, failures, failures_of_devices

OTHER = "bob@example.test"
RESET = Purpose.RESET_PASSWORD
CLIENT = ClientContext(IP, "Test", PHONE)


async def test_reset_replaces_old_password(coded: Coded, clock: FakeClock) -> None:
    issued = await coded.request(RESET, EMAIL.upper(), Delivery.SEND)
    (message,) = await coded.mailbox(MessageKind.RESET_PASSWORD)
    assert (message.address, message.code) == (EMAIL, issued.code)
    assert message.expire_time == clock.now() + timedelta(minutes=10)
    await coded.reset(message.code.lower())
    assert await coded.fetchval("SELECT last_login_time FROM users") is None
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert await coded.service.login(NEW_PASSWORD) == "OK"
    assert (await coded.user()).email_verify_time == clock.now()


async def test_reset_opens_no_session_and_ends_all(coded: Coded) -> None:
    await coded.prove_address()
    tokens = [await coded.service.log_in(CALL, EMAIL, PASSWORD, CLIENT) for _ in range(3)]
    await coded.reset((await coded.request(RESET)).code)
    for session_id in (token.session_id for token in tokens):
        session = await coded.service.sessions.listing.get(session_id)
        assert session.revoke_reason is RevokeReason.PASSWORD_CHANGED
    assert await coded.fetchval("SELECT count(*) FROM sessions WHERE revoke_time IS NULL") == 0
    assert await coded.fetchval("SELECT count(*) FROM revocations") == 3


async def test_reset_notifies_user_and_is_recorded(coded: Coded) -> None:
    await coded.request(RESET)
    issued = await coded.request(RESET)
    await coded.recovery.reset(CALL, EMAIL, issued.code, NEW_PASSWORD, CLIENT)
    (notice,) = await coded.mailbox(MessageKind.PASSWORD_CHANGED)
    assert (notice.address, notice.user_id) == (EMAIL, await coded.user_id())
    events = await coded.events()
    assert (events["user.password_reset_request"], events["user.password_reset"]) == (2, 1)
    rows = await coded.fetch("SELECT * FROM audit_events WHERE type LIKE 'user.password_reset%'")
    assert {row["user_id"] for row in rows} == {await coded.user_id()}
    shown = repr([tuple(row) for row in rows])
    assert not any(text in shown for text in (EMAIL, EMAIL.lower(), issued.code, NEW_PASSWORD))


@pytest.mark.slow
async def test_hundred_concurrent_resets_succeed_once(coded: Coded) -> None:
    issued = await coded.request(RESET)
    results = await outcomes(coded.reset(issued.code) for _ in range(100))
    assert results == {"OK": 1, REFUSED: 99}
    assert len(await coded.mailbox(MessageKind.PASSWORD_CHANGED)) == 1


async def test_codes_of_other_purposes_reset_nothing(coded: Coded, clock: FakeClock) -> None:
    await coded.service.register(OTHER)
    (verification, _) = await coded.mailbox()
    login, theirs = await coded.request(Purpose.LOGIN), await coded.request(RESET, OTHER)
    used, replaced = await coded.request(RESET), await coded.request(RESET)
    await coded.reset(replaced.code)
    expired = await coded.request(RESET)
    clock.advance(timedelta(minutes=10))
    for code in (verification.code, login.code, theirs.code, used.code, replaced.code):
        assert await outcome(coded.reset(code, password="Never-To-Be-Set-1843")) == REFUSED
    assert await outcome(coded.reset(expired.code)) == REFUSED
    assert await coded.service.login(NEW_PASSWORD) == "OK"


async def test_weak_password_does_not_consume_code(coded: Coded) -> None:
    issued = await coded.request(RESET)
    for weak in ("short", "ada@example.test", "Password1234!"):
        with pytest.raises(FieldInvalid) as refused:
            await coded.reset(issued.code, password=weak)
        assert refused.value.reason is Reason.PASSWORD_WEAK
        assert {found.field for found in refused.value.violations} == {"new_password"}
    assert await failures(coded.database) == 0
    await coded.reset(issued.code)


async def test_password_is_looked_at_only_after_the_limit(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await Service(database, clock).start()
    coded = Coded(service)
    await service.register()
    while await outcome(coded.reset(WRONG_CODE)) != "TOO_MANY_ATTEMPTS":
        pass
    looked_at: list[object] = []
    monkeypatch.setattr(service.policy, "check", lambda *_, **__: looked_at.append(1))
    assert await outcome(coded.reset(WRONG_CODE)) == "TOO_MANY_ATTEMPTS"
    assert looked_at == []
    service.hasher.close()


async def test_password_is_checked_in_the_bounded_pool(coded: Coded) -> None:
    issued = await coded.request(RESET)
    threads: list[str] = []
    check = coded.service.policy.check

    def observed(*arguments: Any, **more: Any) -> None:
        threads.append(threading.current_thread().name)
        check(*arguments, **more)

    coded.service.policy.check = observed  # type: ignore[method-assign] # a test's own observer
    await coded.reset(issued.code)
    assert [name.startswith("hashing") for name in threads] == [True]


async def test_full_hash_queue_does_not_consume_code(coded: Coded) -> None:
    issued = await coded.request(RESET)

    async def full() -> None:
        raise Overloaded

    async def idle() -> None:
        pass

    coded.service.hasher.before = full
    assert await outcome(coded.reset(issued.code)) == "OVERLOADED"
    coded.service.hasher.before = idle
    assert await failures(coded.database) == 0
    await coded.reset(issued.code)


async def test_reset_works_for_account_without_password(coded: Coded) -> None:
    await coded.fetch("UPDATE users SET password_hash = NULL, pepper_id = NULL")
    await coded.reset((await coded.request(RESET)).code)
    assert await coded.service.login(NEW_PASSWORD) == "OK"


async def test_reset_unlocks_locked_account(coded: Coded) -> None:
    await coded.fetch("UPDATE users SET failed_logins = 50, failed_device_logins = 50")
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    issued = await coded.request(RESET)
    assert await outcome(coded.reset(WRONG_CODE)) == REFUSED
    await coded.reset(issued.code)
    assert await failures(coded.database) == 0
    assert await failures_of_devices(coded.database) == 0
    assert await coded.service.login(NEW_PASSWORD) == "OK"


async def test_reset_does_not_bypass_second_factor(coded: Coded, clock: FakeClock) -> None:
    await coded.prove_address()
    secured = Secured(coded.service)
    app, _ = await secured.secure(await coded.user_id())
    challenge = await secured.challenge(device=PHONE)
    await secured.verify(challenge.mfa_token, app.code(), device=PHONE, trust=True)
    waiting = await secured.challenge()
    await coded.fetch("UPDATE users SET failed_logins = 7, failed_device_logins = 8")

    await coded.reset((await coded.request(RESET)).code)
    # This must not give somebody who reads the mail new guesses at the second factor.
    assert await failures(coded.database) == 7
    assert await failures_of_devices(coded.database) == 8
    login = coded.service.password_login.log_in(CALL, EMAIL, NEW_PASSWORD, CLIENT)
    assert isinstance(await login, MfaChallenge)
    assert await outcome(secured.verify(waiting.mfa_token, app.code())) == "CREDENTIALS_INVALID"

    issued = await coded.request(Purpose.LOGIN)
    assert isinstance(await coded.log_in(issued.code_id, issued.code, CLIENT), MfaChallenge)


async def test_first_address_proof_revokes_other_credentials(coded: Coded) -> None:
    tokens = await coded.service.log_in(CALL, EMAIL, PASSWORD, CLIENT)
    await coded.reset((await coded.request(RESET)).code)
    session = await coded.service.sessions.listing.get(tokens.session_id)
    assert session.revoke_reason is RevokeReason.OWNER_ARRIVED
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert await coded.service.login(NEW_PASSWORD) == "OK"
    assert await coded.fetchval("SELECT count(*) FROM devices") == 0
    assert (await coded.events())["user.owner_arrived"] == 1


@pytest.mark.slow
async def test_codes_do_not_bypass_second_factor_of_unverified_account(coded: Coded) -> None:
    secured = Secured(coded.service)
    await secured.secure_unproved(await coded.user_id())
    await coded.reset((await coded.request(RESET)).code)
    login = coded.service.password_login.log_in(CALL, EMAIL, NEW_PASSWORD, CLIENT)
    assert isinstance(await login, MfaChallenge)
    issued = await coded.request(Purpose.LOGIN)
    assert isinstance(await coded.log_in(issued.code_id, issued.code, CLIENT), MfaChallenge)
    # Nor is the account's address verified by it.
    assert (await coded.user()).email_verify_time is None
    assert (await coded.events())["user.owner_arrived"] == 0


async def test_reset_refunds_attempt_of_known_device(coded: Coded) -> None:
    await coded.prove_address()
    await coded.service.log_in(CALL, EMAIL, PASSWORD, CLIENT)
    await coded.recovery.reset(CALL, EMAIL, (await coded.request(RESET)).code, NEW_PASSWORD, CLIENT)
    assert await failures_of_devices(coded.database) == 0


async def test_disabled_or_deleted_account_cannot_be_reset(coded: Coded) -> None:
    issued = await coded.request(RESET)
    await coded.service.accounts.disable(CLI, EMAIL)
    assert await outcome(coded.reset(issued.code)) == REFUSED
    late = await coded.request(RESET, delivery=Delivery.SEND)
    assert await coded.mailbox(MessageKind.RESET_PASSWORD) == []
    await coded.service.accounts.enable(CLI, EMAIL)
    assert await outcome(coded.reset(late.code)) == REFUSED
    assert await coded.service.login(PASSWORD) == "OK"
    await coded.fetch("DELETE FROM users")
    assert await outcome(coded.reset(issued.code)) == REFUSED


async def test_account_disabled_during_hashing_keeps_password(
    coded: Coded,
) -> None:
    issued = await coded.request(RESET)
    before = await coded.fetchval("SELECT password_hash FROM users")

    async def disable() -> None:
        await coded.service.accounts.disable(CLI, EMAIL)

    coded.service.hasher.before = disable
    assert await outcome(coded.reset(issued.code)) == REFUSED
    assert await coded.fetchval("SELECT password_hash FROM users") == before
    assert await coded.mailbox(MessageKind.PASSWORD_CHANGED) == []


@pytest.mark.slow
async def test_reset_leaves_no_session_from_concurrent_old_password_logins(coded: Coded) -> None:
    issued = await coded.request(RESET)

    async def log_in(number: int) -> Any:
        return await coded.service.login(PASSWORD, ip=f"10.0.0.{number}")

    await asyncio.gather(*map(log_in, range(20)), coded.reset(issued.code))
    assert await coded.fetchval("SELECT count(*) FROM sessions WHERE revoke_time IS NULL") == 0
