"""Verification of an address: with the code sent there, once, and for no other user.

Whoever reads the code without having set the password gets an account without what was set before.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from authsvc.core.accounts.accounts import NewUser, Registration
from authsvc.core.accounts.owner_proofs import AccessToken, Password, RegistrationToken
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.models.calls import ClientContext
from authsvc.models.messages import Delivery
from tests.support.accounts import CALL, CLI, EMAIL, IP, PASSWORD, WRONG
from tests.support.clock import FakeClock
from tests.support.codes import (
    NEW_PASSWORD,
    OTHER,
    PROOFS,
    REFUSED,
    WRONG_CODE,
    Coded,
    outcome,
    outcomes,
    proof_of,
    registered,
)
from tests.support.databases import until, waits_for_a_lock
from tests.support.logins import failures

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
    await coded.service.accounts.create_user(CLI, NewUser(OTHER, PASSWORD))
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
    assert len(await coded.mailbox(KIND)) == 1
    assert (await coded.written())[KIND.value] == 2
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
    await coded.verify(sent.code, proof=Password(PASSWORD))
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


# What was set before the first verification

CREDENTIALS_INVALID = "CREDENTIALS_INVALID"


async def held(coded: Coded, email: str = OTHER) -> tuple[int, ...]:
    """Return how many live sessions, API keys, devices and passwords the account has."""
    (row,) = await coded.fetch(
        "SELECT (SELECT count(*) FROM sessions s WHERE s.user_id = u.user_id"
        " AND revoke_time IS NULL),"
        " (SELECT count(*) FROM api_keys k WHERE k.user_id = u.user_id),"
        " (SELECT count(*) FROM devices d WHERE d.user_id = u.user_id), num_nonnulls(password_hash)"
        " FROM users u WHERE email = $1",
        email,
    )
    return tuple(row)


@pytest.mark.parametrize("kind", PROOFS)
async def test_proof_of_having_set_password_keeps_what_was_set(coded: Coded, kind: str) -> None:
    code, token, access_token = await registered(coded)
    assert not await coded.verify(code, OTHER, proof=proof_of(kind, token, access_token))
    assert await held(coded) == (1, 1, 1, 1)
    user = await coded.user(OTHER)
    assert (user.display_name, user.email_verify_time) == ("Bob", coded.clock.now())
    assert await coded.service.login(email=OTHER) == "OK"
    assert await coded.mailbox(MessageKind.RESET_PASSWORD) == []


async def test_without_proof_everything_goes_and_reset_code_is_sent(coded: Coded) -> None:
    code, token, access_token = await registered(coded)
    assert await coded.verify(code, OTHER)
    assert await held(coded) == (0, 0, 0, 0)
    user = await coded.user(OTHER)
    assert (user.display_name, user.email_verify_time) == ("", coded.clock.now())
    events = await coded.events()
    assert (events["user.email_verify"], events["user.owner_arrived"]) == (1, 1)
    assert events["user.password_reset_request"] == 1
    revoked = await coded.fetch("SELECT user_id FROM revocations WHERE user_id IS NOT NULL")
    assert [row[0] for row in revoked] == [user.user_id]
    assert await coded.service.login(email=OTHER) == CREDENTIALS_INVALID

    (reset,) = await coded.mailbox(MessageKind.RESET_PASSWORD)
    assert (reset.address, reset.user_id) == (OTHER, user.user_id)
    await coded.reset(reset.code, OTHER)
    assert await coded.service.login(NEW_PASSWORD, email=OTHER) == "OK"
    # What showed who set the old password shows nothing any more.
    for proof in (RegistrationToken(token), AccessToken(access_token)):
        assert await outcome(coded.verify(WRONG_CODE, OTHER, proof=proof)) == CREDENTIALS_INVALID


async def test_first_verification_is_atomic(coded: Coded) -> None:
    code, _, _ = await registered(coded)
    await coded.fetch(
        "ALTER TABLE outbox ADD CONSTRAINT fault CHECK (kind <> 'reset_password') NOT VALID"
    )
    with pytest.raises(Exception, match="fault"):
        await coded.verify(code, OTHER)
    assert await held(coded) == (1, 1, 1, 1)
    assert (await coded.user(OTHER)).email_verify_time is None
    await coded.fetch("ALTER TABLE outbox DROP CONSTRAINT fault")
    assert await coded.verify(code, OTHER)


async def test_verified_account_keeps_what_was_set(coded: Coded) -> None:
    code, _, _ = await registered(coded)
    # By another way, such as a link to an identity, which leaves the code.
    await coded.prove_address()
    assert not await coded.verify(code, OTHER)
    assert await held(coded) == (1, 1, 1, 1)


async def test_imported_user_keeps_password_only_with_proof(coded: Coded) -> None:
    for email, proof in ((OTHER, None), ("eve@example.test", Password(PASSWORD))):
        await coded.service.register(email)
        await coded.fetch("UPDATE users SET origin = 'import' WHERE email = $1", email)
        issued = await coded.request(PURPOSE, email)
        assert await coded.verify(issued.code, email, proof=proof) is (proof is None)
        expected = CREDENTIALS_INVALID if proof is None else "OK"
        assert await coded.service.login(email=email) == expected


async def test_concurrent_verifications_use_code_once(coded: Coded) -> None:
    for turn in range(4):
        email = f"user{turn}@example.test"
        code, token, _ = await registered(coded, email)
        proofs = [None, RegistrationToken(token)] * 10
        ends = await asyncio.gather(
            *(coded.verify(code, email, proof=proof) for proof in proofs), return_exceptions=True
        )
        (removed,) = [end for end in ends if isinstance(end, bool)]
        assert await held(coded, email) == ((0, 0, 0, 0) if removed else (1, 1, 1, 1))
        assert len(await coded.mailbox(MessageKind.RESET_PASSWORD)) == removed
        await coded.fetch("DELETE FROM outbox")


# What a squatter does while the owner verifies the address, with what was left afterwards.
SQUATTER: dict[str, Callable[[Coded, str], Awaitable[object]]] = {
    "login": lambda coded, _: coded.service.login(email=OTHER, device="x"),
    "verification": lambda coded, token: coded.verify(
        WRONG_CODE, OTHER, proof=RegistrationToken(token)
    ),
}


@pytest.mark.parametrize("name", SQUATTER)
async def test_squatter_who_waits_for_owner_gets_nothing(coded: Coded, name: str) -> None:
    code, token, _ = await registered(coded)

    async def waits() -> bool:
        async with coded.database.connection() as looking:
            return await waits_for_a_lock(looking)

    async with coded.database.transaction() as connection:
        await connection.execute("SELECT FROM users FOR UPDATE")
        owner = asyncio.create_task(coded.verify(code, OTHER))
        await until(waits)
        squatter = asyncio.create_task(outcome(_awaited(SQUATTER[name](coded, token))))
        await asyncio.sleep(0)
    assert await owner
    await squatter
    sessions, keys, _, passwords = await held(coded)
    assert (keys, passwords) == (0, 0)
    assert sessions == 0


async def _awaited(work: Awaitable[object]) -> object:
    return await work


async def test_recorded_events_hold_no_proof(coded: Coded) -> None:
    code, token, access_token = await registered(coded)
    for kind in PROOFS:
        await outcome(coded.verify(WRONG_CODE, OTHER, proof=proof_of(kind, token, access_token)))
    await outcome(coded.verify(code, OTHER, proof=Password(WRONG)))
    rows = await coded.fetch("SELECT detail FROM audit_events WHERE type = 'user.login_failure'")
    assert [json.loads(row["detail"])["cause"] for row in rows] == [*["code"] * 3, "password"]
    shown = repr([tuple(row) for row in await coded.fetch("SELECT a::text FROM audit_events a")])
    assert not any(text in shown for text in (token, access_token, PASSWORD, WRONG, code))
    assert token not in repr(RegistrationToken(token))
