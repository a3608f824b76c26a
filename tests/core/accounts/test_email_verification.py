"""Verification of an address: with the code sent there, once, and for no other user."""

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


async def test_registration_sends_code_that_verifies_address(
    coded: Coded, clock: FakeClock
) -> None:
    (message,) = await coded.mailbox()
    assert (message.kind, message.address) == (KIND, EMAIL)
    assert message.expire_time == clock.now() + timedelta(hours=24)
    assert (await coded.user()).email_verify_time is None
    await coded.verify(message.code, EMAIL.upper())
    assert (await coded.user()).email_verify_time == clock.now()
    assert (await coded.events())["user.email_verify"] == 1


@pytest.mark.slow
async def test_code_is_returned_instead_of_sent_on_request(coded: Coded) -> None:
    registration = Registration(OTHER, PASSWORD, delivery=Delivery.RETURN)
    made = await coded.service.accounts.register(CALL, registration)
    assert [message.address for message in await coded.mailbox()] == [EMAIL]
    assert made.code not in repr(made)
    await coded.verify(made.code, OTHER)
    assert (await coded.user(OTHER)).user_id == made.user_id


@pytest.mark.slow
async def test_account_created_by_operator_gets_no_message(coded: Coded) -> None:
    await coded.service.accounts.create_user(CLI, OTHER, PASSWORD)
    assert [message.address for message in await coded.mailbox()] == [EMAIL]


@pytest.mark.slow
async def test_rejected_registration_sends_no_code(coded: Coded) -> None:
    before = await coded.mailbox()
    assert await outcome(coded.service.register()) == "EMAIL_TAKEN"
    assert await coded.mailbox() == before
    await coded.verify(before[0].code)


@pytest.mark.slow
async def test_resent_code_replaces_first_and_goes_to_stored_address(
    coded: Coded,
) -> None:
    (first,) = await coded.mailbox(KIND)
    issued = await coded.request(PURPOSE, EMAIL.upper(), Delivery.SEND)
    _, second = await coded.mailbox(KIND)
    assert (second.address, second.code) == (EMAIL, issued.code)
    assert await outcome(coded.verify(first.code)) == REFUSED
    await coded.verify(second.code)


@pytest.mark.slow
async def test_first_verification_time_is_kept(coded: Coded, clock: FakeClock) -> None:
    login = await coded.request(Purpose.LOGIN)
    first = clock.now()
    await coded.log_in(login.code_id, login.code)
    clock.advance(60)
    await coded.reset((await coded.request(Purpose.RESET_PASSWORD)).code)
    assert (await coded.user()).email_verify_time == first
    assert (await coded.events())["user.email_verify"] == 1


@pytest.mark.slow
async def test_verified_address_gets_decoy_code(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    await coded.verify(sent.code)
    issued = await coded.request(PURPOSE, delivery=Delivery.SEND)
    assert len(await coded.mailbox()) == 1
    assert await coded.written() == {KIND.value: 2}
    for code in (issued.code, sent.code):
        assert await outcome(coded.verify(code)) == REFUSED


@pytest.mark.slow
async def test_disabled_or_deleted_account_cannot_be_verified(coded: Coded) -> None:
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


@pytest.mark.slow
async def test_hundred_concurrent_verifications_succeed_once(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    results = await outcomes(coded.verify(sent.code) for _ in range(100))
    assert results == {"OK": 1, REFUSED: 99}
    assert (await coded.events())["user.email_verify"] == 1


@pytest.mark.slow
async def test_failures_count_as_failed_logins_and_success_keeps_them(
    coded: Coded,
) -> None:
    (sent,) = await coded.mailbox()
    for _ in range(3):
        assert await outcome(coded.verify(WRONG_CODE)) == REFUSED
    assert await failures(coded.database) == 3
    await coded.verify(sent.code)
    assert await failures(coded.database) == 3


@pytest.mark.slow
async def test_locked_account_cannot_verify_and_keeps_its_code(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    await coded.fetch("UPDATE users SET failed_logins = 100")
    assert await outcome(coded.verify(sent.code)) == REFUSED
    await coded.fetch("UPDATE users SET failed_logins = 0")
    await coded.verify(sent.code)


@pytest.mark.parametrize("email", ["no address", "ada@", "a\n@example.test"])
async def test_malformed_address_is_reported(coded: Coded, email: str) -> None:
    assert await outcome(coded.verify("12345678", email)) == "EMAIL_INVALID"
    assert await outcome(coded.request(PURPOSE, email)) == "EMAIL_INVALID"


@pytest.mark.slow
async def test_request_is_recorded_without_address_or_code(coded: Coded) -> None:
    client = ClientContext(IP, "Test", "phone")
    issued = await coded.request(PURPOSE, client=client)
    await coded.request(PURPOSE, OTHER, client=client)
    rows = await coded.fetch("SELECT * FROM audit_events WHERE type = 'user.code_request'")
    user_id = await coded.user_id()
    assert [row["user_id"] for row in rows] == [user_id, None]
    assert {str(row["ip"]) for row in rows} == {IP}
    shown = repr([tuple(row) for row in rows]).lower()
    assert not any(text in shown for text in (EMAIL.lower(), OTHER, issued.code))
