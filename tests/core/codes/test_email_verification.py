"""Verifying an address: by the code that went there, once, and for nobody else."""

from datetime import timedelta

import pytest

from authsvc.core.accounts.accounts import Registration
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.models.calls import ClientContext
from authsvc.models.messages import Delivery
from tests.support.accounts import CALL, CLI, EMAIL, IP, PASSWORD
from tests.support.clock import FakeClock
from tests.support.codes import REFUSED, WRONG_CODE, Coded, outcome, outcomes
from tests.support.logins import failures

OTHER = "bob@example.test"
PURPOSE = Purpose.VERIFY_EMAIL
KIND = MessageKind.VERIFY_EMAIL


async def test_registering_sends_a_code_that_verifies_the_address(
    coded: Coded, clock: FakeClock
) -> None:
    (message,) = await coded.mailbox()
    assert (message.kind, message.address) == (KIND, EMAIL)
    assert message.expire_time == clock.now() + timedelta(hours=24)
    assert (await coded.user()).email_verify_time is None
    await coded.verify(message.code, EMAIL.upper())
    assert (await coded.user()).email_verify_time == clock.now()
    assert (await coded.events())["user.email_verify"] == 1


async def test_a_code_is_returned_and_not_sent_to_whoever_wants_that(coded: Coded) -> None:
    registration = Registration(OTHER, PASSWORD, delivery=Delivery.RETURN)
    made = await coded.service.accounts.register(CALL, registration)
    assert [message.address for message in await coded.mailbox()] == [EMAIL]
    assert made.code not in repr(made)
    await coded.verify(made.code, OTHER)
    assert (await coded.user(OTHER)).user_id == made.user_id


async def test_an_operator_s_account_gets_no_message(coded: Coded) -> None:
    await coded.service.accounts.create_user(CLI, OTHER, PASSWORD)
    assert [message.address for message in await coded.mailbox()] == [EMAIL]


async def test_an_account_that_was_not_made_has_no_code(coded: Coded) -> None:
    before = await coded.mailbox()
    assert await outcome(coded.service.register()) == "EMAIL_TAKEN"
    assert await coded.mailbox() == before
    await coded.verify(before[0].code)


async def test_a_resent_code_replaces_the_first_and_goes_to_the_stored_address(
    coded: Coded,
) -> None:
    (first,) = await coded.mailbox(KIND)
    issued = await coded.request(PURPOSE, EMAIL.upper(), Delivery.SEND)
    _, second = await coded.mailbox(KIND)
    assert (second.address, second.code) == (EMAIL, issued.code)
    assert await outcome(coded.verify(first.code)) == REFUSED
    await coded.verify(second.code)


async def test_the_first_time_is_kept(coded: Coded, clock: FakeClock) -> None:
    login = await coded.request(Purpose.LOGIN)
    first = clock.now()
    await coded.log_in(login.code_id, login.code)
    clock.advance(60)
    await coded.reset((await coded.request(Purpose.RESET_PASSWORD)).code)
    assert (await coded.user()).email_verify_time == first
    assert (await coded.events())["user.email_verify"] == 1


async def test_a_verified_address_gets_a_code_that_never_works(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    await coded.verify(sent.code)
    issued = await coded.request(PURPOSE, delivery=Delivery.SEND)
    assert len(await coded.mailbox()) == 1
    assert await coded.written() == {KIND.value: 2}
    for code in (issued.code, sent.code):
        assert await outcome(coded.verify(code)) == REFUSED


async def test_whose_account_is_disabled_or_gone_verifies_nothing(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    await coded.service.accounts.disable(CLI, EMAIL)
    assert await outcome(coded.verify(sent.code)) == REFUSED
    issued = await coded.request(PURPOSE)
    assert await outcome(coded.verify(issued.code)) == REFUSED
    await coded.service.accounts.enable(CLI, EMAIL)
    assert await outcome(coded.verify(issued.code)) == REFUSED
    assert (await coded.user()).email_verify_time is None
    await coded.fetch("DELETE FROM users")
    assert await outcome(coded.verify(issued.code)) == REFUSED


async def test_a_hundred_at_once_verify_once(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    results = await outcomes(coded.verify(sent.code) for _ in range(100))
    assert results == {"OK": 1, REFUSED: 99}
    assert (await coded.events())["user.email_verify"] == 1


async def test_failures_count_as_those_of_logins_and_success_takes_back_its_own_only(
    coded: Coded,
) -> None:
    (sent,) = await coded.mailbox()
    for _ in range(3):
        assert await outcome(coded.verify(WRONG_CODE)) == REFUSED
    assert await failures(coded.database) == 3
    await coded.verify(sent.code)
    assert await failures(coded.database) == 3


async def test_a_locked_account_verifies_nothing_and_keeps_its_code(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    await coded.fetch("UPDATE users SET failed_logins = 100")
    assert await outcome(coded.verify(sent.code)) == REFUSED
    await coded.fetch("UPDATE users SET failed_logins = 0")
    await coded.verify(sent.code)


@pytest.mark.parametrize("email", ["no address", "ada@", "a\n@example.test"])
async def test_what_is_no_address_is_told(coded: Coded, email: str) -> None:
    assert await outcome(coded.verify("12345678", email)) == "EMAIL_INVALID"
    assert await outcome(coded.request(PURPOSE, email)) == "EMAIL_INVALID"


async def test_a_request_is_recorded_without_address_and_code(coded: Coded) -> None:
    client = ClientContext(IP, "Test", "phone")
    issued = await coded.request(PURPOSE, client=client)
    await coded.request(PURPOSE, OTHER, client=client)
    rows = await coded.fetch("SELECT * FROM audit_events WHERE type = 'user.code_request'")
    user_id = await coded.user_id()
    assert [row["user_id"] for row in rows] == [user_id, None]
    assert {str(row["ip"]) for row in rows} == {IP}
    shown = repr([tuple(row) for row in rows]).lower()
    assert not any(text in shown for text in (EMAIL.lower(), OTHER, issued.code))
