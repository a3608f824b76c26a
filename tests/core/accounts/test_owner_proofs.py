"""Proofs of having set the password: only those of the account count, and only while they hold."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.core.accounts.accounts import Registration
from authsvc.core.accounts.owner_proofs import (
    AccessToken,
    OwnerProof,
    Password,
    RegistrationToken,
)
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.errors import Overloaded
from tests.support.accounts import CALL, PASSWORD, WRONG
from tests.support.codes import (
    CLIENT,
    NEW_PASSWORD,
    OTHER,
    PROOFS,
    WRONG_CODE,
    Coded,
    outcome,
    proof_of,
    registered,
)
from tests.support.databases import until, waits_for_a_lock
from tests.support.logins import failures

PURPOSE = Purpose.VERIFY_EMAIL
CREDENTIALS_INVALID = "CREDENTIALS_INVALID"


async def wrong_proofs(coded: Coded) -> dict[str, OwnerProof]:
    """Return proofs that show nothing about OTHER's account."""
    made = await coded.service.accounts.register(CALL, Registration("eve@example.test", PASSWORD))
    eve = await coded.service.log_in(CALL, "eve@example.test", PASSWORD, CLIENT)
    tampered = made.token[:-1] + ("A" if made.token[-1] != "A" else "B")
    return {
        "password": Password(WRONG),
        "another's registration token": RegistrationToken(made.token),
        "another's access token": AccessToken(eve.access_token),
        "tampered registration token": RegistrationToken(tampered),
        "not a registration token": RegistrationToken(eve.refresh_token),
        "not an access token": AccessToken(made.token),
        "malformed": RegistrationToken("as1_" + "!" * 76),
    }


async def test_wrong_proof_leaves_code_and_reveals_nothing(coded: Coded) -> None:
    code, token, _ = await registered(coded)
    for name, proof in (await wrong_proofs(coded)).items():
        for email, tried in ((OTHER, code), (OTHER, WRONG_CODE), ("none@example.test", code)):
            end = await outcome(coded.verify(tried, email, proof=proof))
            assert end == CREDENTIALS_INVALID, (name, email)
    [[tries]] = await coded.fetch(
        "SELECT attempts FROM one_time_codes WHERE email_canonical = $1", OTHER
    )
    assert tries == 0
    (row, *_) = await coded.fetch("SELECT failed_logins FROM users WHERE email = $1", OTHER)
    assert row["failed_logins"] == 14
    assert not await coded.verify(code, OTHER, proof=RegistrationToken(token))


async def test_wrong_password_is_charged_as_failed_login(coded: Coded) -> None:
    (sent,) = await coded.mailbox()
    before = coded.service.hasher.compared
    for _ in range(55):
        proof = Password(WRONG)
        assert await outcome(coded.verify(sent.code, proof=proof)) == CREDENTIALS_INVALID
    assert coded.service.hasher.compared - before == 50
    assert await failures(coded.database) == 50
    assert await outcome(coded.verify(sent.code, proof=Password(PASSWORD))) == CREDENTIALS_INVALID


async def test_full_hash_queue_leaves_code_and_costs_no_attempt(coded: Coded) -> None:
    async def full() -> None:
        raise Overloaded

    (sent,) = await coded.mailbox()
    coded.service.hasher.before = full
    assert await outcome(coded.verify(sent.code, proof=Password(PASSWORD))) == "OVERLOADED"
    assert await failures(coded.database) == 0
    coded.service.hasher.before = coded.database.ping
    assert not await coded.verify(sent.code, proof=Password(PASSWORD))


@pytest.mark.parametrize("kind", PROOFS[:2])
@pytest.mark.parametrize("state", ["disabled", "locked", "without password"])
async def test_proof_counts_only_while_account_can_be_used(
    coded: Coded, kind: str, state: str
) -> None:
    code, token, access_token = await registered(coded)
    changes = {
        "disabled": "status = 'disabled'",
        "locked": "failed_logins = 100",
        "without password": "password_hash = NULL",
    }
    await coded.fetch(f"UPDATE users SET {changes[state]} WHERE email = $1", OTHER)
    end = await outcome(coded.verify(code, OTHER, proof=proof_of(kind, token, access_token)))
    # A session can be older than the removal of the password.
    alone = (kind, state) == ("access token", "without password")
    assert end == ("OK" if alone else CREDENTIALS_INVALID)


async def test_registration_token_lasts_seven_days(coded: Coded) -> None:
    _, token, _ = await registered(coded)
    coded.clock.advance(timedelta(days=7))
    issued = await coded.request(PURPOSE, OTHER)
    proof = RegistrationToken(token)
    assert await outcome(coded.verify(issued.code, OTHER, proof=proof)) == CREDENTIALS_INVALID
    coded.clock.advance(-timedelta(seconds=1))
    assert not await coded.verify(issued.code, OTHER, proof=proof)


async def test_registration_token_ends_with_its_password(coded: Coded) -> None:
    code, token, _ = await registered(coded)
    other = await coded.service.hasher.hash(NEW_PASSWORD)
    await coded.fetch("UPDATE users SET password_hash = $1 WHERE email = $2", other.phc, OTHER)
    end = await outcome(coded.verify(code, OTHER, proof=RegistrationToken(token)))
    assert end == CREDENTIALS_INVALID


async def test_session_ended_while_code_is_used_proves_nothing(coded: Coded) -> None:
    code, _, access_token = await registered(coded)

    async def waits() -> bool:
        async with coded.database.connection() as looking:
            return await waits_for_a_lock(looking)

    async with coded.database.transaction() as connection:
        await connection.execute("SELECT FROM one_time_codes FOR UPDATE")
        end = asyncio.create_task(
            outcome(coded.verify(code, OTHER, proof=AccessToken(access_token)))
        )
        await until(waits)
        await connection.execute(
            "UPDATE sessions SET revoke_time = now(), revoke_reason = 'logout'"
        )
    assert await end == CREDENTIALS_INVALID
    assert await coded.verify(code, OTHER)


@pytest.mark.parametrize("to", ["same", "another"])
async def test_password_replaced_while_code_is_used_is_compared_again(
    coded: Coded, to: str
) -> None:
    code, _, _ = await registered(coded)

    async def replace_hash() -> None:
        coded.service.hasher.after_verify = coded.database.ping
        password = PASSWORD if to == "same" else NEW_PASSWORD
        new = await coded.service.hasher.hash(password)
        await coded.fetch("UPDATE users SET password_hash = $1 WHERE email = $2", new.phc, OTHER)

    coded.service.hasher.after_verify = replace_hash
    end = await outcome(coded.verify(code, OTHER, proof=Password(PASSWORD)))
    assert end == ("OK" if to == "same" else CREDENTIALS_INVALID)
    if to == "another":
        assert not await coded.verify(code, OTHER, proof=Password(NEW_PASSWORD))
