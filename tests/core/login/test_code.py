"""Login by a code: subject to the same rules as login by password."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from authsvc.core.codes.one_time_codes import IssuedCode, OneTimeCodes, Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.models.calls import ClientContext
from authsvc.models.messages import Delivery
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Tokens
from authsvc.store.postgres.database import Connection, Database
from tests.support.accounts import CALL, CLI, EMAIL, IP, KEYRING, PASSWORD
from tests.support.clock import FakeClock
from tests.support.codes import (
    CLIENT,
    REFUSED,
    WRONG_CODE,
    Coded,
    outcome,
    outcomes,
    unlimited_codes,
)
from tests.support.logins import PHONE, causes, failures

OTHER = "bob@example.test"
LOGIN = Purpose.LOGIN


async def test_code_logs_in_and_verifies_address(coded: Coded, clock: FakeClock) -> None:
    issued = await coded.request(LOGIN, EMAIL.upper(), Delivery.SEND)
    (message,) = await coded.mailbox(MessageKind.LOGIN_CODE)
    assert (message.address, message.code) == (EMAIL, issued.code)
    assert message.expire_time == clock.now() + timedelta(minutes=10)
    tokens = await coded.log_in(issued.code_id, message.code, ClientContext(IP, "Test", PHONE))
    assert isinstance(tokens, Tokens)
    assert tokens.user_id == await coded.user_id()
    session = await coded.service.sessions.listing.get(tokens.session_id)
    assert session.authentication_methods == ("otp",)
    assert (await coded.user()).email_verify_time == clock.now()
    assert await coded.fetchval("SELECT last_login_time FROM users") == clock.now()
    events = await coded.events()
    assert (events["user.login"], events["user.email_verify"]) == (1, 1)
    assert await coded.fetchval("SELECT count(*) FROM devices") == 1


@pytest.mark.slow
async def test_hundred_concurrent_logins_with_code_succeed_once(coded: Coded) -> None:
    issued = await coded.request(LOGIN)
    results = await outcomes(coded.log_in(issued.code_id, issued.code) for _ in range(100))
    assert results == {"OK": 1, REFUSED: 99}
    assert await coded.fetchval("SELECT count(*) FROM sessions") == 1


async def test_code_is_bound_to_its_request(coded: Coded) -> None:
    await coded.service.register(OTHER)
    mine, theirs = await coded.request(LOGIN), await coded.request(LOGIN, OTHER)
    reset = await coded.request(Purpose.RESET_PASSWORD)
    tries = {
        "another's": (theirs.code_id, mine.code),
        "unknown": (uuid4(), mine.code),
        "of another purpose": (reset.code_id, reset.code),
        "of another purpose, here": (mine.code_id, reset.code),
    }
    for code_id, code in tries.values():
        assert await outcome(coded.log_in(code_id, code)) == REFUSED
    assert await outcome(coded.log_in(mine.code_id, mine.code)) == "OK"
    assert await outcome(coded.log_in(theirs.code_id, theirs.code)) == "OK"


async def test_request_of_another_leaves_code_alone(coded: Coded) -> None:
    await coded.prove_address()
    first, second = await coded.request(LOGIN), await coded.request(LOGIN)
    assert await outcome(coded.log_in(second.code_id, first.code)) == REFUSED
    assert await outcome(coded.log_in(first.code_id, first.code)) == "OK"
    assert await outcome(coded.log_in(second.code_id, second.code)) == "OK"


async def test_expired_code_is_rejected(coded: Coded, clock: FakeClock) -> None:
    issued = await coded.request(LOGIN)
    clock.advance(timedelta(minutes=10))
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED


@pytest.mark.slow
async def test_concurrent_guesses_exhaust_code_after_five_tries(coded: Coded) -> None:
    issued = await coded.request(LOGIN)
    guesses = await outcomes(coded.log_in(issued.code_id, WRONG_CODE) for _ in range(50))
    assert guesses == {REFUSED: 50}
    assert await coded.fetchval("SELECT attempts FROM one_time_codes WHERE purpose = 'login'") == 5
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED


async def test_code_and_password_guesses_share_a_limit(coded: Coded) -> None:
    issued = await coded.request(LOGIN)
    for _ in range(3):
        await outcome(coded.log_in(issued.code_id, WRONG_CODE))
        await coded.service.login("Wrong-Password-1")
    assert await failures(coded.database) == 6
    assert await causes(coded.database) == {
        "login_failure:code": 3,
        "login_failure:password": 3,
    }
    await coded.log_in(issued.code_id, issued.code)
    assert await failures(coded.database) == 0


async def test_hundred_failures_lock_account_for_codes(coded: Coded) -> None:
    issued = await coded.request(LOGIN)
    await coded.fetch("UPDATE users SET failed_logins = 100")
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED
    assert await causes(coded.database) == {"login_failure:locked": 1}
    await coded.service.accounts.enable(CLI, EMAIL)
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == "OK"


async def test_account_disabled_after_request_is_rejected(coded: Coded) -> None:
    issued = await coded.request(LOGIN)
    await coded.service.accounts.disable(CLI, EMAIL)
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED
    assert await coded.fetchval("SELECT count(*) FROM sessions") == 0


@pytest.mark.slow
async def test_account_without_password_can_log_in(coded: Coded) -> None:
    await coded.fetch("UPDATE users SET password_hash = NULL, pepper_id = NULL")
    issued = await coded.request(LOGIN)
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == "OK"
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"


async def test_disabled_or_unknown_account_gets_decoy_code_and_no_mail(
    coded: Coded,
) -> None:
    await coded.service.register(OTHER)
    await coded.service.accounts.disable(CLI, OTHER)
    for email in (OTHER, "nobody@example.test"):
        issued = await coded.request(LOGIN, email, Delivery.SEND)
        assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED
    assert await coded.mailbox(MessageKind.LOGIN_CODE) == []
    assert (await coded.written())[MessageKind.LOGIN_CODE.value] == 2


class Interrupted(OneTimeCodes):
    """Codes whose user is deleted when one is about to be stored."""

    database: Database

    async def issue(self, connection: Connection, *arguments: Any, **more: Any) -> IssuedCode:
        async with self.database.connection() as other:
            await other.execute("DELETE FROM users")
        return await super().issue(connection, *arguments, **more)


async def test_account_deleted_during_request_gets_decoy_code(
    coded: Coded, clock: FakeClock
) -> None:
    codes = Interrupted(KEYRING, unlimited_codes(), clock)
    codes.database = coded.database
    coded.service.code_requests._codes = codes
    issued = await coded.request(LOGIN, delivery=Delivery.SEND)
    assert await outcome(coded.log_in(issued.code_id, issued.code)) == REFUSED
    assert await coded.mailbox() == []


async def test_first_address_proof_revokes_other_credentials(coded: Coded) -> None:
    tokens = await coded.service.log_in(CALL, EMAIL, PASSWORD, CLIENT)
    issued = await coded.request(Purpose.LOGIN)
    assert isinstance(await coded.log_in(issued.code_id, issued.code, CLIENT), Tokens)
    session = await coded.service.sessions.listing.get(tokens.session_id)
    assert session.revoke_reason is RevokeReason.OWNER_ARRIVED
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert (await coded.events())["user.owner_arrived"] == 1


async def test_later_address_proofs_revoke_nothing(coded: Coded) -> None:
    await coded.prove_address()
    issued = await coded.request(Purpose.LOGIN)
    await coded.log_in(issued.code_id, issued.code, CLIENT)
    assert await coded.service.login(PASSWORD) == "OK"
    assert (await coded.events())["user.owner_arrived"] == 0
