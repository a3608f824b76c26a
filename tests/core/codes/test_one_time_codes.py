"""One-time codes: each works once, for its purpose only, and allows few guesses."""

import asyncio
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from authsvc.config import CodeSettings
from authsvc.core.attempts.attempts import Attempt
from authsvc.core.codes.one_time_codes import IssuedCode, OneTimeCodes, Purpose
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.sealing import Keyring
from authsvc.models.calls import ClientContext
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import users
from authsvc.store.postgres.database import Database
from authsvc.store.users import Credential, LoginSubject
from tests.support.accounts import CALL, KEYRING, key
from tests.support.clock import FakeClock
from tests.support.codes import unlimited_codes
from tests.support.databases import until, waits_for_a_lock

ADDRESS = "ada@example.test"
OTHER = "bob@example.test"
SETTINGS = CodeSettings()


@dataclass
class World:
    """The codes of two users."""

    database: Database
    codes: OneTimeCodes
    ada: UserId
    bob: UserId

    async def issue(
        self,
        purpose: Purpose = Purpose.LOGIN,
        address: str = ADDRESS,
        user_id: UserId | None = None,
    ) -> IssuedCode:
        async with self.database.transaction() as connection:
            return await self.codes.issue(connection, purpose, address, user_id or self.ada)

    async def claim(
        self,
        code: str,
        purpose: Purpose = Purpose.LOGIN,
        address: str = ADDRESS,
        *,
        attempt: Attempt | None = None,
        codes: OneTimeCodes | None = None,
        code_id: UUID | None = None,
    ) -> UserId | None:
        async with self.database.transaction() as connection:
            return await (codes or self.codes).claim(
                connection,
                attempt or attempt_of(self.ada, address),
                purpose,
                code,
                code_id=code_id,
            )

    async def attempts(self) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval("SELECT sum(attempts) FROM one_time_codes"))


def attempt_of(
    user_id: UserId, account: str = ADDRESS, *, hopeless: bool = False, network: str | None = None
) -> Attempt:
    """Return an attempt at this user's account; a `hopeless` one can't succeed."""
    subject = LoginSubject(user_id, UserStatus.ACTIVE, known_device=False)
    credential = None if hopeless else Credential(user_id, None, None)
    return Attempt(CALL, account, ClientContext(), None, subject, credential, network)


def wrong(issued: IssuedCode) -> str:
    """Return a code that differs in its last digit."""
    return issued.code[:-1] + str((int(issued.code[-1]) + 1) % 10)


@pytest_asyncio.fixture
async def world(database: Database, clock: FakeClock) -> World:
    ada, bob = [await _insert(database, address, clock) for address in (ADDRESS, OTHER)]
    return World(database, OneTimeCodes(KEYRING, SETTINGS, clock), ada, bob)


async def _insert(database: Database, address: str, clock: FakeClock) -> UserId:
    now = clock.now()
    user = User(UserId(uuid7(now)), address, "", (), UserStatus.ACTIVE, now)
    async with database.connection() as connection:
        assert await users.insert(
            connection,
            user,
            email_canonical=address,
            origin=UserOrigin.REGISTER,
            phc="hash",
            pepper_id="p1",
        )
    return user.user_id


async def test_code_works_once(world: World) -> None:
    issued = await world.issue()
    assert await world.claim(issued.code) == world.ada
    assert await world.claim(issued.code) is None


@pytest.mark.parametrize("purpose", list(Purpose))
async def test_code_format_depends_on_purpose(world: World, purpose: Purpose) -> None:
    shape = r"\d{8}"
    if purpose is Purpose.RESET_PASSWORD:
        shape = r"[2-9A-HJ-NP-Z]{4}(-[2-9A-HJ-NP-Z]{4}){2}"
    made = [await world.issue(purpose) for _ in range(20)]
    assert all(re.fullmatch(shape, issued.code) for issued in made)
    assert len({issued.code for issued in made}) == len({issued.code_id for issued in made}) == 20
    assert made[0].code not in repr(made[0])


async def test_login_code_id_is_unguessable(world: World) -> None:
    assert (await world.issue()).code_id.version == 4


@pytest.mark.parametrize(
    ("purpose", "lifetime"),
    [
        (Purpose.LOGIN, SETTINGS.lifetime),
        (Purpose.RESET_PASSWORD, SETTINGS.lifetime),
        (Purpose.CHANGE_EMAIL, SETTINGS.lifetime),
        (Purpose.VERIFY_EMAIL, SETTINGS.verification_lifetime),
    ],
)
async def test_code_expires(
    world: World, clock: FakeClock, purpose: Purpose, lifetime: timedelta
) -> None:
    issued = await world.issue(purpose)
    assert issued.expire_time == clock.now() + lifetime
    clock.advance(lifetime)
    assert await world.claim(issued.code, purpose) is None
    clock.advance(-timedelta(microseconds=1))
    assert await world.claim(issued.code, purpose) == world.ada


async def test_code_is_accepted_in_any_spelling(world: World) -> None:
    for form in (" {}\t{}\n", "{}-{}", "{}\u2011{}\u00a0"):
        code = (await world.issue()).code
        assert await world.claim(form.format(code[:4], code[4:])) == world.ada
    code = (await world.issue()).code
    full_width = "".join(chr(ord(char) + 0xFEE0) for char in code)
    assert await world.claim(full_width) == world.ada
    reset = Purpose.RESET_PASSWORD
    assert await world.claim((await world.issue(reset)).code.lower(), reset) == world.ada
    code = (await world.issue(reset)).code.replace("-", "")
    assert await world.claim(code, reset) == world.ada


@pytest.mark.parametrize("typed", ["", "-", "0" * 64, "\u0660" * 8, "é", "1" * 10_000])
async def test_malformed_code_is_rejected(world: World, typed: str) -> None:
    await world.issue()
    assert await world.claim(typed) is None


async def test_code_is_bound_to_purpose_user_address_and_id(world: World) -> None:
    issued = await world.issue()
    for purpose in set(Purpose) - {Purpose.LOGIN}:
        await world.issue(purpose)
        assert await world.claim(issued.code, purpose) is None
    await world.issue(address=OTHER, user_id=world.bob)
    assert await world.claim(issued.code, attempt=attempt_of(world.bob, OTHER)) is None
    assert await world.claim(issued.code, attempt=attempt_of(world.bob)) is None
    assert await world.claim(issued.code, attempt=attempt_of(world.ada, OTHER)) is None
    assert await world.claim(issued.code, code_id=uuid4()) is None
    assert await world.claim(issued.code, code_id=issued.code_id) == world.ada


async def test_hopeless_attempt_fails_but_counts(world: World) -> None:
    issued = await world.issue()
    assert await world.claim(issued.code, attempt=attempt_of(world.ada, hopeless=True)) is None
    nobody = replace(attempt_of(world.ada, hopeless=True), subject=None)
    assert await world.claim(issued.code, attempt=nobody) is None
    assert await world.attempts() == 1
    assert await world.claim(issued.code) == world.ada


@pytest.mark.parametrize("purpose", [one for one in Purpose if one is not Purpose.LOGIN])
async def test_newer_code_replaces_previous_one(world: World, purpose: Purpose) -> None:
    first, second = await world.issue(purpose), await world.issue(purpose)
    assert await world.claim(first.code, purpose) is None
    assert await world.claim(first.code, purpose, code_id=first.code_id) is None
    assert await world.claim(second.code, purpose) == world.ada


async def test_login_codes_of_several_challenges_are_independent(world: World) -> None:
    # Otherwise a stranger's request would end the owner's login.
    owner, stranger = await world.issue(), await world.issue()
    for _ in range(SETTINGS.max_attempts):
        assert await world.claim(owner.code, code_id=stranger.code_id) is None
    assert await world.claim(stranger.code, code_id=stranger.code_id) is None
    assert await world.claim(owner.code, code_id=owner.code_id) == world.ada
    assert await world.claim(owner.code, code_id=owner.code_id) is None


async def test_codes_of_two_users_for_one_address_are_independent(world: World) -> None:
    new, purpose = "new@example.test", Purpose.CHANGE_EMAIL
    ada = await world.issue(purpose, new)
    bob = await world.issue(purpose, new, world.bob)
    for _ in range(SETTINGS.max_attempts):
        assert await world.claim(ada.code, purpose, attempt=attempt_of(world.bob, new)) is None
    assert await world.claim(bob.code, purpose, attempt=attempt_of(world.bob, new)) is None
    assert await world.claim(ada.code, purpose, attempt=attempt_of(world.ada, new)) == world.ada


async def test_code_allows_five_tries_from_each_network_and_fifty_in_all(world: World) -> None:
    issued = await world.issue()
    places = [attempt_of(world.ada, network=f"10.0.{n}.0/24") for n in range(11)]
    guesses = [world.claim(wrong(issued), attempt=place) for place in places for _ in range(7)]
    assert await asyncio.gather(*guesses) == [None] * 77
    assert await world.attempts() == 50
    # Ten networks have used up five each, or eleven at least one: none has one left.
    for place in [*places, attempt_of(world.ada, network=None)]:
        assert await world.claim(issued.code, attempt=place) is None


@pytest.mark.parametrize("network", ["192.0.2.2/32", None])
async def test_strangers_tries_leave_code_to_owner(world: World, network: str | None) -> None:
    issued = await world.issue()
    stranger = attempt_of(world.ada, network="192.0.2.1/32")
    for _ in range(SETTINGS.max_attempts + 1):
        assert await world.claim(wrong(issued), attempt=stranger) is None
    assert await world.claim(issued.code, attempt=stranger) is None
    owner = attempt_of(world.ada, network=network)
    assert await world.claim(issued.code, attempt=owner) == world.ada


async def test_reset_code_bears_any_number_of_tries(world: World) -> None:
    issued = await world.issue(Purpose.RESET_PASSWORD)
    for _ in range(SETTINGS.max_attempts_in_all + 1):
        assert await world.claim("wrong", Purpose.RESET_PASSWORD) is None
    assert await world.claim(issued.code, Purpose.RESET_PASSWORD) == world.ada


async def test_networks_are_stored_as_keyed_hashes(world: World) -> None:
    issued = await world.issue()
    await world.claim(wrong(issued), attempt=attempt_of(world.ada, network="192.0.2.1/32"))
    async with world.database.connection() as connection:
        kept = await connection.fetchval("SELECT network_attempts::text FROM one_time_codes")
    assert re.fullmatch(r'\{"[0-9a-f]{16}": 1\}', kept)


async def test_code_allows_five_tries(world: World) -> None:
    issued = await world.issue()
    for _ in range(SETTINGS.max_attempts - 1):
        assert await world.claim(wrong(issued)) is None
    assert await world.claim(issued.code) == world.ada

    issued = await world.issue()
    for _ in range(SETTINGS.max_attempts):
        assert await world.claim(wrong(issued)) is None
    assert await world.claim(issued.code) is None


@pytest.mark.parametrize("state", ["never made", "used", "tried too often", "expired"])
async def test_try_without_valid_code_waits_for_no_flush(
    state: str, world: World, clock: FakeClock
) -> None:
    code = "12345678"
    if state != "never made":
        issued = await world.issue()
        code = issued.code
        tries = {"used": [code], "tried too often": [wrong(issued)] * SETTINGS.max_attempts}
        for tried in tries.get(state, []):
            await world.claim(tried)
        clock.advance(SETTINGS.lifetime if state == "expired" else 0)
    async with world.database.transaction() as connection:
        attempt = attempt_of(world.ada)
        assert await world.codes.claim(connection, attempt, Purpose.LOGIN, code) is None
        assert await connection.fetchval("SHOW synchronous_commit") == "off"


@pytest.mark.slow
async def test_hundred_concurrent_claims_of_correct_code_succeed_once(
    world: World, clock: FakeClock
) -> None:
    issued = await world.issue()
    codes = OneTimeCodes(KEYRING, unlimited_codes(max_attempts=10), clock)
    claims = await asyncio.gather(*(world.claim(issued.code, codes=codes) for _ in range(100)))
    assert [claim for claim in claims if claim is not None] == [world.ada]


@pytest.mark.slow
async def test_hundred_concurrent_guesses_count_five(world: World) -> None:
    issued = await world.issue()
    claims = await asyncio.gather(*(world.claim(wrong(issued)) for _ in range(100)))
    assert claims == [None] * 100
    assert await world.attempts() == SETTINGS.max_attempts
    assert await world.claim(issued.code) is None


@pytest.mark.slow
async def test_concurrent_requests_leave_one_working_code(world: World) -> None:
    purpose = Purpose.CHANGE_EMAIL
    made = await asyncio.gather(*(world.issue(purpose) for _ in range(20)))
    claims = [await world.claim(one.code, purpose, code_id=one.code_id) for one in made]
    assert sorted(map(str, claims)) == sorted(["None"] * 19 + [str(world.ada)])


# What happens while a right code waits for its user's row, and whether it still works after that.
MEANWHILE = {
    "UPDATE users SET failed_logins = 1": True,
    "UPDATE one_time_codes SET attempts = 49": True,
    "UPDATE one_time_codes SET attempts = 50": False,
    "UPDATE one_time_codes SET use_time = create_time": False,
    "UPDATE one_time_codes SET code_id = gen_random_uuid()": False,
    "DELETE FROM one_time_codes": False,
    "DELETE FROM users": False,
}


@pytest.mark.parametrize("change", MEANWHILE)
async def test_claim_rereads_code_after_waiting_for_user_lock(change: str, world: World) -> None:
    issued = await world.issue()
    async with world.database.connection() as looking:
        async with world.database.transaction() as connection:
            await connection.execute("UPDATE users SET update_time = now()")
            claim = asyncio.create_task(world.claim(issued.code))
            await until(partial(waits_for_a_lock, looking))
            await connection.execute(change)
        assert await claim == (world.ada if MEANWHILE[change] else None)


async def test_decoy_code_never_works(world: World) -> None:
    async with world.database.transaction() as connection:
        decoy = await world.codes.issue(connection, Purpose.LOGIN, OTHER, None)
        unusable = await world.codes.issue(
            connection, Purpose.LOGIN, ADDRESS, world.ada, usable=False
        )
    assert await world.claim(unusable.code) is None
    for user_id in (world.ada, world.bob):
        assert await world.claim(decoy.code, attempt=attempt_of(user_id, OTHER)) is None
    nobody = replace(attempt_of(world.bob, OTHER, hopeless=True), subject=None)
    assert await world.claim(decoy.code, attempt=nobody) is None
    assert await world.attempts() == 2


async def test_code_under_older_key_works_while_in_keyring(world: World, clock: FakeClock) -> None:
    for keys, expected in (("k2", "k1"), world.ada), (("k2",), None):
        issued = await world.issue()
        renewed = OneTimeCodes(Keyring([key(name) for name in keys]), SETTINGS, clock)
        assert await world.claim(issued.code, codes=renewed) == expected


async def test_database_does_not_reveal_code(world: World) -> None:
    issued = await world.issue(Purpose.RESET_PASSWORD)
    async with world.database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM one_time_codes")
    assert row is not None
    plain = issued.code.replace("-", "")
    for code in (issued.code, plain):
        assert code not in repr(tuple(row))
        for text in (code, f"{issued.code_id}{code}", f"{ADDRESS}{code}"):
            assert row["code_hash"] != hashlib.sha256(text.encode()).digest()
        assert row["code_hash"] != hashlib.sha256(issued.code_id.bytes + code.encode()).digest()


async def test_hash_copied_to_another_row_does_not_work(world: World) -> None:
    mine = await world.issue(address=OTHER, user_id=world.bob)
    theirs = await world.issue()
    async with world.database.connection() as connection:
        await connection.execute(
            "UPDATE one_time_codes SET code_hash = (SELECT code_hash FROM one_time_codes"
            " WHERE code_id = $1) WHERE code_id = $2",
            mine.code_id,
            theirs.code_id,
        )
    assert await world.claim(mine.code) is None


async def test_unknown_code_id_maps_to_stable_fake_account(
    world: World,
) -> None:
    issued, stranger = await world.issue(), uuid4()
    async with world.database.connection() as connection:
        found = [
            await world.codes.find_account(connection, purpose, code_id)
            for purpose, code_id in (
                (Purpose.LOGIN, issued.code_id),
                (Purpose.RESET_PASSWORD, issued.code_id),
                (Purpose.LOGIN, stranger),
                (Purpose.LOGIN, stranger),
                (Purpose.LOGIN, uuid4()),
            )
        ]
    assert found[0] == ADDRESS
    assert found[2] == found[3] != found[4]
    assert not any("@" in account for account in found[1:])
