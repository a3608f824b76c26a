"""Changes of e-mail addresses: verified first, the old address notified, and nothing disclosed."""

from datetime import timedelta

import pytest

from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.models.messages import Delivery
from tests.support.accounts import CALL, CLI, EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.codes import CLIENT, NEW_EMAIL, REFUSED, WRONG_CODE, Coded, outcome, outcomes
from tests.support.logins import failures

OTHER = "bob@example.test"
KINDS = (MessageKind.CHANGE_EMAIL, MessageKind.EMAIL_CHANGE_REQUESTED, MessageKind.EMAIL_IN_USE)


async def test_address_changes_once_new_one_is_proved(coded: Coded, clock: FakeClock) -> None:
    ada = await coded.user_id()
    issued = await coded.request_change(ada, delivery=Delivery.SEND)
    told = [(message.kind, message.address) for message in await coded.mailbox(*KINDS)]
    assert sorted(told) == [
        (MessageKind.CHANGE_EMAIL, NEW_EMAIL),
        (MessageKind.EMAIL_CHANGE_REQUESTED, EMAIL),
    ]
    assert (await coded.user()).email == EMAIL

    user = await coded.confirm_change(ada, issued.code)
    assert user == await coded.user(NEW_EMAIL)
    assert (user.user_id, user.email, user.email_verify_time) == (ada, NEW_EMAIL, clock.now())
    assert await coded.service.login(PASSWORD, email=NEW_EMAIL.upper()) == "OK"
    assert await coded.service.login(PASSWORD) == "CREDENTIALS_INVALID"
    (notice,) = await coded.mailbox(MessageKind.EMAIL_CHANGED)
    # The notice outlives the account, which a thief might erase next.
    assert (notice.address, notice.user_id) == (EMAIL, None)
    events = await coded.events()
    assert (events["user.email_change_request"], events["user.email_change"]) == (1, 1)


async def test_audit_events_contain_no_address_or_code(coded: Coded) -> None:
    ada = await coded.user_id()
    issued = await coded.request_change(ada)
    await coded.confirm_change(ada, issued.code)
    rows = await coded.fetch("SELECT * FROM audit_events WHERE type LIKE 'user.email%'")
    assert {row["user_id"] for row in rows} == {ada}
    shown = repr([tuple(row) for row in rows]).lower()
    assert not any(text.lower() in shown for text in (EMAIL, NEW_EMAIL, issued.code))


async def test_returned_code_is_not_sent(coded: Coded) -> None:
    await coded.request_change(await coded.user_id())
    assert [message.kind for message in await coded.mailbox(*KINDS)] == [
        MessageKind.EMAIL_CHANGE_REQUESTED
    ]


async def test_taken_address_is_indistinguishable_from_free_one(coded: Coded) -> None:
    await coded.service.register(OTHER)
    ada = await coded.user_id()
    free = await coded.request_change(ada, delivery=Delivery.SEND)
    taken = await coded.request_change(ada, OTHER.upper(), Delivery.SEND)
    assert len(free.code) == len(taken.code)
    assert free.expire_time == taken.expire_time
    told = [(message.kind, message.address) for message in await coded.mailbox(*KINDS)]
    assert sorted(told) == [
        (MessageKind.CHANGE_EMAIL, NEW_EMAIL),
        (MessageKind.EMAIL_CHANGE_REQUESTED, EMAIL),
        (MessageKind.EMAIL_CHANGE_REQUESTED, EMAIL),
        (MessageKind.EMAIL_IN_USE, OTHER),
    ]
    assert await outcome(coded.confirm_change(ada, taken.code, OTHER)) == REFUSED
    # Nor does it work once the address becomes free.
    await coded.fetch("DELETE FROM users WHERE email = $1", OTHER)
    assert await outcome(coded.confirm_change(ada, taken.code, OTHER)) == REFUSED


async def test_owner_of_disabled_account_is_not_notified(coded: Coded) -> None:
    await coded.service.register(OTHER)
    await coded.service.accounts.disable(CLI, OTHER)
    await coded.request_change(await coded.user_id(), OTHER, Delivery.SEND)
    assert await coded.mailbox(MessageKind.EMAIL_IN_USE, MessageKind.CHANGE_EMAIL) == []


async def test_two_users_claiming_one_address_have_one_winner(coded: Coded) -> None:
    await coded.service.register(OTHER)
    users = [await coded.user_id(), await coded.user_id(OTHER)]
    codes = {user: (await coded.request_change(user)).code for user in users}
    results = await outcomes(coded.confirm_change(user, code) for user, code in codes.items())
    assert results == {"OK": 1, "EMAIL_TAKEN": 1}
    assert await coded.fetchval("SELECT sum(failed_logins) FROM users") == 0
    winner = await coded.user_id(NEW_EMAIL)
    (loser,) = set(users) - {winner}
    assert await coded.fetchval("SELECT count(*) FROM users WHERE user_id = $1", loser) == 1
    # The code was right: it works if the address becomes free in time.
    await coded.fetch("DELETE FROM users WHERE user_id = $1", winner)
    await coded.confirm_change(loser, codes[loser])


@pytest.mark.slow
async def test_hundred_concurrent_confirmations_change_address_once(coded: Coded) -> None:
    ada = await coded.user_id()
    issued = await coded.request_change(ada)
    results = await outcomes(coded.confirm_change(ada, issued.code) for _ in range(100))
    assert results == {"OK": 1, REFUSED: 99}
    assert len(await coded.mailbox(MessageKind.EMAIL_CHANGED)) == 1


async def test_code_is_bound_to_user_and_address(coded: Coded) -> None:
    await coded.service.register(OTHER)
    ada, bob = await coded.user_id(), await coded.user_id(OTHER)
    issued = await coded.request_change(ada)
    elsewhere = await coded.request_change(ada, "elsewhere@example.test")
    assert await outcome(coded.confirm_change(bob, issued.code)) == REFUSED
    assert await outcome(coded.confirm_change(ada, elsewhere.code)) == REFUSED
    await coded.confirm_change(ada, issued.code)


@pytest.mark.parametrize("next_owner", ["another", "the same"])
async def test_codes_sent_to_old_address_become_invalid(coded: Coded, next_owner: str) -> None:
    ada = await coded.user_id()
    (verification,) = await coded.mailbox()
    login, reset = await coded.request(Purpose.LOGIN), await coded.request(Purpose.RESET_PASSWORD)
    await coded.confirm_change(ada, (await coded.request_change(ada)).code)
    if next_owner == "another":
        await coded.service.register(EMAIL)
    else:
        await coded.confirm_change(ada, (await coded.request_change(ada, EMAIL)).code, EMAIL)
        await coded.fetch("UPDATE users SET email_verify_time = NULL")
    for use in (
        coded.log_in(login.code_id, login.code),
        coded.reset(reset.code),
        coded.reset(reset.code, NEW_EMAIL),
        coded.verify(verification.code),
        coded.verify(verification.code, NEW_EMAIL),
    ):
        assert await outcome(use) == REFUSED


async def test_change_requires_recent_login(coded: Coded, clock: FakeClock) -> None:
    claims = coded.claims(await coded.user_id())
    clock.advance(timedelta(minutes=10))
    change, refused = coded.email_change, "REAUTHENTICATION_REQUIRED"
    issued = await coded.request_change(claims.subject)
    clock.advance(timedelta(seconds=1))
    request = change.request(CALL, claims, NEW_EMAIL, Delivery.RETURN, CLIENT)
    assert await outcome(request) == refused
    assert await outcome(change.confirm(CALL, claims, NEW_EMAIL, issued.code, CLIENT)) == refused
    assert await outcome(coded.confirm_change(claims.subject, issued.code)) == "OK"


@pytest.mark.slow
async def test_code_allows_five_tries_counted_as_failed_logins(coded: Coded) -> None:
    ada = await coded.user_id()
    issued = await coded.request_change(ada)
    guesses = await outcomes(coded.confirm_change(ada, WRONG_CODE) for _ in range(20))
    assert guesses == {REFUSED: 20}
    assert await failures(coded.database) == 20
    assert await outcome(coded.confirm_change(ada, issued.code)) == REFUSED


async def test_success_refunds_only_its_own_attempt(coded: Coded) -> None:
    await coded.fetch("UPDATE users SET failed_logins = 3")
    ada = await coded.user_id()
    await coded.confirm_change(ada, (await coded.request_change(ada)).code)
    assert await failures(coded.database) == 3


@pytest.mark.parametrize("email", [EMAIL, EMAIL.upper()])
async def test_change_to_own_address_is_rejected(coded: Coded, email: str) -> None:
    ada = await coded.user_id()
    assert await outcome(coded.request_change(ada, email)) == "FIELD_INVALID"
    for invalid in ("no address", "\ufb01rst@example.test"):
        assert await outcome(coded.request_change(ada, invalid)) == "EMAIL_INVALID"
    assert await coded.mailbox(*KINDS) == []


@pytest.mark.parametrize("statement", ["UPDATE users SET status = 'disabled'", "DELETE FROM users"])
async def test_disabled_or_deleted_user_cannot_change_address(coded: Coded, statement: str) -> None:
    ada = await coded.user_id()
    issued = await coded.request_change(ada)
    await coded.fetch(statement)
    assert await outcome(coded.request_change(ada)) == "USER_NOT_FOUND"
    assert await outcome(coded.confirm_change(ada, issued.code)) == "USER_NOT_FOUND"
    assert await coded.fetchval("SELECT count(*) FROM users WHERE email = $1", NEW_EMAIL) == 0
