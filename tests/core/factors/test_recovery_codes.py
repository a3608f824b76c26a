"""Recovery codes: ten that each work once, and removal of the factor they stand in for."""

import asyncio
import re

import pytest

from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.lib.sealing import Keyring
from authsvc.store import recovery_codes as store
from tests.support.accounts import CALL, KEYRING, key
from tests.support.factors import Secured, reason, reasons, used

REFUSED = "CREDENTIALS_INVALID"
_FORM = re.compile(r"[0-9a-hjkmnp-tv-z]{4}(-[0-9a-hjkmnp-tv-z]{4}){3}")


async def test_codes_are_ten_random_and_easy_to_copy(secured: Secured) -> None:
    _, codes = await secured.secure(await secured.user())
    assert len(set(codes)) == 10
    assert all(_FORM.fullmatch(code) for code in codes), codes
    # 16 characters out of 32 are 80 bits: more than the 64 assumed for an offline search.
    assert len(codes[0].replace("-", "")) == 16
    assert len({character for code in codes for character in code}) > 20


async def test_codes_are_stored_as_keyed_hashes_bound_to_user(secured: Secured) -> None:
    ada, eve = await secured.user(), await secured.user("eve@example.test")
    async with secured.service.database.transaction() as connection:
        codes = await secured.recovery_codes.generate(connection, ada)
        rows = await connection.fetch("SELECT * FROM recovery_codes")
        assert not await secured.recovery_codes.claim(connection, eve, codes[0])
        other = RecoveryCodes(Keyring([key("k2")]), secured.clock)
        assert not await other.claim(connection, ada, codes[0])
        # Not even if the rows are moved to Eve.
        await connection.execute("UPDATE recovery_codes SET user_id = $1", eve)
        assert not await secured.recovery_codes.claim(connection, eve, codes[0])
    assert all(len(row["code_hash"]) == 32 for row in rows)
    for code in codes:
        assert code.replace("-", "") not in str(rows)


async def test_codes_under_older_key_work(secured: Secured) -> None:
    ada = await secured.user()
    newer = RecoveryCodes(Keyring([key("k2"), key("k1")]), secured.clock)
    async with secured.service.database.transaction() as connection:
        codes = await RecoveryCodes(KEYRING, secured.clock).generate(connection, ada)
        assert await newer.claim(connection, ada, codes[0])
        assert not await newer.claim(connection, ada, codes[0])


@pytest.mark.parametrize("spell", ["upper", "no hyphens", "blanks", "o and l"])
async def test_code_is_accepted_in_any_spelling(secured: Secured, spell: str) -> None:
    ada = await secured.user()
    async with secured.service.database.transaction() as connection:
        codes = await secured.recovery_codes.generate(connection, ada)
        spelled = {
            "upper": codes[0].upper(),
            "no hyphens": codes[0].replace("-", ""),
            "blanks": f" {codes[0].replace('-', ' ')} ",
            "o and l": codes[0].replace("0", "O").replace("1", "l"),
        }[spell]
        assert await secured.recovery_codes.claim(connection, ada, spelled)
        assert await store.count(connection, ada) == 9


@pytest.mark.slow
async def test_new_codes_replace_previous_ones(secured: Secured) -> None:
    ada = await secured.user()
    _, old = await secured.secure(ada)
    new = await secured.own.generate_recovery_codes(CALL, secured.claims(ada))
    assert set(old).isdisjoint(new)
    assert await secured.notices() == ["factor_added", "recovery_codes_generated"]
    name = "factor.recovery_codes_generate"
    assert await secured.events(name) == {name: 1}
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, used(old[0]))) == REFUSED
    await secured.verify(token, used(new[0]))


@pytest.mark.slow
async def test_concurrent_generation_leaves_ten_codes(secured: Secured) -> None:
    ada = await secured.user()
    await secured.secure(ada)
    made = await asyncio.gather(
        *(secured.own.generate_recovery_codes(CALL, secured.claims(ada)) for _ in range(10))
    )
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10
    async with secured.service.database.transaction() as connection:
        works = [await secured.recovery_codes.claim(connection, ada, codes[0]) for codes in made]
    assert works.count(True) == 1


async def test_ensure_creates_codes_only_if_none_are_left(secured: Secured) -> None:
    ada = await secured.user()
    async with secured.service.database.transaction() as connection:
        codes = await secured.recovery_codes.ensure(connection, ada)
        for code in codes[:9]:
            await secured.recovery_codes.claim(connection, ada, code)
        assert await secured.recovery_codes.ensure(connection, ada) == []
        await secured.recovery_codes.claim(connection, ada, codes[9])
        assert len(await secured.recovery_codes.ensure(connection, ada)) == 10


async def test_codes_require_a_confirmed_factor(secured: Secured) -> None:
    ada = await secured.user()
    await secured.enroll(ada)
    call = secured.own.generate_recovery_codes(CALL, secured.claims(ada))
    assert await reason(call) == "FACTOR_NOT_FOUND"
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 0


@pytest.mark.slow
async def test_use_of_code_notifies_user(secured: Secured) -> None:
    _, codes = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    await reason(secured.verify(token, used("0000-0000-0000-0000")))
    assert await secured.notices() == ["factor_added"]
    await secured.verify(token, used(codes[0]))
    assert await secured.notices() == ["factor_added", "recovery_code_used"]
    assert await secured.events("factor.recovery_code_use") == {"factor.recovery_code_use": 1}


@pytest.mark.slow
async def test_one_code_completes_one_of_many_concurrent_logins(secured: Secured) -> None:
    _, codes = await secured.secure(await secured.user())
    challenges = await asyncio.gather(*(secured.challenge() for _ in range(20)))
    calls = (secured.verify(one.mfa_token, used(codes[0])) for one in challenges * 5)
    assert await reasons(calls) == {"OK": 1, REFUSED: 99}
    assert await secured.fetchval("SELECT count(*) FROM sessions") == 1
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 9
    assert (await secured.notices()).count("recovery_code_used") == 1


async def test_each_of_ten_codes_works_once(secured: Secured) -> None:
    _, codes = await secured.secure(await secured.user())
    for code in codes:
        await secured.verify((await secured.challenge()).mfa_token, used(code))
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, used(codes[0]))) == REFUSED
