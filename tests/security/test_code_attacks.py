"""Attacks on one-time codes: nothing reveals whether an account exists, and guesses are bounded.

ASVS 6.3.8, 6.5 and 6.6. Each attack uses the code of the attacked account, a wrong code, or a decoy
that was issued for nobody.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.errors import ServiceError, TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.models.messages import Delivery
from authsvc.store.postgres.database import Database
from tests.support.accounts import CLI, IP, Service, cheap_passwords
from tests.support.clock import FakeClock
from tests.support.codes import CLIENT, Coded, start_coded, unlimited_codes
from tests.support.databases import opened

UNKNOWN = "unknown@example.test"
ACCOUNTS = ("unknown", "active", "disabled", "verified", "locked")
PUBLIC = [Purpose.VERIFY_EMAIL, Purpose.LOGIN, Purpose.RESET_PASSWORD]
CODE = "23456789"


def _email(account: str) -> str:
    return f"{account}@example.test"


async def _make_accounts(coded: Coded) -> None:
    for account in ACCOUNTS[1:]:
        await coded.service.register(_email(account))
    await coded.service.accounts.disable(CLI, _email("disabled"))
    await coded.fetch("UPDATE users SET email_verify_time = now() WHERE email ~ 'verified'")
    await coded.fetch("UPDATE users SET failed_logins = 100 WHERE email ~ 'locked'")


@pytest_asyncio.fixture
async def single(database_dsn: str, clock: FakeClock) -> AsyncIterator[Coded]:
    """Codes over a pool of one connection, so that statements run one after another."""
    async with opened(database_dsn, pool_max=1) as database:
        coded = await start_coded(database, clock)
        await _make_accounts(coded)
        yield coded
        coded.service.hasher.close()


async def _statements(coded: Coded, work: Callable[[], Awaitable[object]]) -> list[str]:
    """Return the statements that the work causes, in order."""
    statements: list[str] = []

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        statements.append(query.query)

    async with coded.database.connection() as connection:
        connection.add_query_logger(note)
    await work()
    async with coded.database.connection() as connection:
        # Loggers are called in the next iteration of the event loop.
        await asyncio.sleep(0)
        connection.remove_query_logger(note)
    return statements


def _use(
    coded: Coded,
    purpose: Purpose,
    email: str,
    issued: IssuedCode,
    code: str = CODE,
    client: ClientContext = CLIENT,
) -> Awaitable[object]:
    """Use a code with a public purpose on the account with this address."""
    if purpose is Purpose.VERIFY_EMAIL:
        return coded.verify(code, email, client)
    if purpose is Purpose.RESET_PASSWORD:
        return coded.reset(code, email, client=client)
    return coded.log_in(issued.code_id, code, client)


async def _refusal(work: Awaitable[object]) -> tuple[object, ...]:
    with pytest.raises(ServiceError) as refused:
        await work
    error = refused.value
    return (type(error), error.reason, error.message, dict(error.metadata), error.args)


@pytest.mark.parametrize("delivery", list(Delivery))
@pytest.mark.parametrize("purpose", PUBLIC)
async def test_request_costs_same_work_for_every_account(
    single: Coded, purpose: Purpose, delivery: Delivery
) -> None:
    async def ask(account: str) -> list[str]:
        return await _statements(single, lambda: single.request(purpose, _email(account), delivery))

    await ask("active")
    statements = {account: await ask(account) for account in ACCOUNTS}
    assert len(statements["active"]) >= 5
    assert statements == dict.fromkeys(ACCOUNTS, statements["active"])


@pytest.mark.parametrize("purpose", PUBLIC)
async def test_wrong_code_has_same_work_and_response_for_every_account(
    single: Coded, purpose: Purpose
) -> None:
    issued = {name: await single.request(purpose, _email(name)) for name in ACCOUNTS}
    statements: dict[str, list[str]] = {}
    answers: dict[str, tuple[object, ...]] = {}
    for name in ("active", *ACCOUNTS):
        email = _email(name)

        async def attack(email: str = email, name: str = name) -> None:
            answers[name] = await _refusal(_use(single, purpose, email, issued[name]))

        statements[name] = await _statements(single, attack)
    assert len(statements["active"]) >= 5
    assert statements == dict.fromkeys(ACCOUNTS, statements["active"])
    assert answers == dict.fromkeys(ACCOUNTS, answers["active"])
    assert "CODE_INVALID" in answers["active"]


async def test_invented_challenge_is_indistinguishable_from_real_one(single: Coded) -> None:
    issued = await single.request(Purpose.LOGIN, _email("active"))
    found = {}
    for name in ("real", "invented", "real", "invented"):
        code_id = issued.code_id if name == "real" else uuid4()
        answers: list[tuple[object, ...]] = []

        async def attack(code_id: UUID = code_id, answers: list[Any] = answers) -> None:
            answers.append(await _refusal(single.log_in(code_id, CODE)))

        found[name] = (await _statements(single, attack), answers)
    assert found["real"] == found["invented"]


@pytest.mark.parametrize("purpose", PUBLIC)
async def test_decoy_codes_never_work(single: Coded, purpose: Purpose) -> None:
    for account in ("unknown", "disabled"):
        issued = await single.request(purpose, _email(account))
        work = _use(single, purpose, _email(account), issued, issued.code)
        assert "CODE_INVALID" in await _refusal(work)
    # Nor for an account that takes the address afterwards.
    issued = await single.request(purpose, UNKNOWN)
    await single.service.register(UNKNOWN)
    assert "CODE_INVALID" in await _refusal(_use(single, purpose, UNKNOWN, issued, issued.code))


@pytest.mark.parametrize("purpose", PUBLIC)
async def test_every_account_is_throttled_alike(
    database: Database, clock: FakeClock, purpose: Purpose
) -> None:
    service = await Service(
        database, clock, passwords=cheap_passwords(), code_settings=unlimited_codes()
    ).start()
    coded = Coded(service)
    await _make_accounts(coded)
    seen: dict[str, list[str]] = {}
    for subnet, account in enumerate(ACCOUNTS):
        email, ends = _email(account), []
        for _ in range(7):
            issued = await coded.request(purpose, email)
            client = ClientContext(f"10.0.{subnet}.1")
            work = _use(coded, purpose, email, issued, client=client)
            ends.append(str((await _refusal(work))[1]))
        seen[account] = ends
    service.hasher.close()
    # A reset code can't be guessed, so nobody can throttle its owner.
    last = "CODE_INVALID" if purpose is Purpose.RESET_PASSWORD else "TOO_MANY_ATTEMPTS"
    assert seen == dict.fromkeys(ACCOUNTS, ["CODE_INVALID"] * 5 + [last] * 2)


async def test_invented_challenges_from_one_ip_are_throttled(
    database: Database, clock: FakeClock
) -> None:
    service = await Service(database, clock, passwords=cheap_passwords()).start()
    coded = Coded(service)
    ends = [str((await _refusal(coded.log_in(uuid4(), CODE)))[1]) for _ in range(55)]
    service.hasher.close()
    assert ends == ["CODE_INVALID"] * 50 + ["TOO_MANY_ATTEMPTS"] * 5


async def test_new_codes_do_not_allow_more_guesses(database: Database, clock: FakeClock) -> None:
    service = await Service(
        database, clock, passwords=cheap_passwords(), code_settings=unlimited_codes()
    ).start()
    coded = Coded(service)
    await service.register(_email("active"))
    ends = []
    for turn in range(30):
        issued = await coded.request(Purpose.LOGIN, _email("active"))
        client = ClientContext(f"10.0.{turn}.1")
        ends.append(str((await _refusal(coded.log_in(issued.code_id, CODE, client)))[1]))
    service.hasher.close()
    assert ends == ["CODE_INVALID"] * 20 + ["TOO_MANY_ATTEMPTS"] * 10


async def test_guessing_stranger_cannot_block_code_of_owner(coded: Coded) -> None:
    issued = await coded.request(Purpose.LOGIN)
    for _ in range(5):
        await _refusal(coded.log_in(issued.code_id, CODE))
    assert "CODE_INVALID" in await _refusal(coded.log_in(issued.code_id, issued.code))
    elsewhere = ClientContext("198.51.100.7")
    await coded.log_in(issued.code_id, issued.code, elsewhere)


async def test_requests_of_all_purposes_share_a_limit(database: Database, clock: FakeClock) -> None:
    few = {"requests": 5, "window": "1h"}
    coded = await start_coded(database, clock, unlimited_codes(requests_per_address=few))
    await coded.service.register(_email("active"))
    user_id = await coded.user_id(_email("active"))
    for purpose in (Purpose.VERIFY_EMAIL, Purpose.LOGIN):
        await coded.request(purpose, _email("active"))
    # Each request for a change also mails the old address.
    for number in range(3):
        await coded.request_change(user_id, f"new{number}@example.test")
    with pytest.raises(TooManyAttempts):
        await coded.request_change(user_id, "new3@example.test")
    with pytest.raises(TooManyAttempts):
        await coded.request(Purpose.LOGIN, _email("active"))
    # Strangers' requests for other codes can't prevent a reset, and theirs for one mail the owner.
    for _ in range(5):
        issued = await coded.request(Purpose.RESET_PASSWORD, _email("active"))
    with pytest.raises(TooManyAttempts):
        await coded.request(Purpose.RESET_PASSWORD, _email("active"))
    await coded.reset(issued.code, _email("active"))
    coded.service.hasher.close()


async def test_fifty_concurrent_requests_send_one_message(
    database: Database, clock: FakeClock
) -> None:
    coded = await start_coded(database, clock, unlimited_codes(resend_interval="60s"))
    await coded.service.register(_email("active"))
    made = await asyncio.gather(
        *(coded.request(Purpose.LOGIN, _email("active"), Delivery.SEND) for _ in range(50)),
        return_exceptions=True,
    )
    coded.service.hasher.close()
    assert sum(isinstance(one, IssuedCode) for one in made) == 1
    assert sum(isinstance(one, TooManyAttempts) for one in made) == 49
    assert (await coded.written())["login_code"] == 1


async def test_no_code_appears_in_log_or_tables(
    coded: Coded, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: Mapping[Purpose, IssuedCode] = {
        purpose: await coded.issue(purpose) for purpose in Purpose
    }
    mailed = await coded.request(Purpose.LOGIN, _email("active"), Delivery.SEND)
    for purpose in (Purpose.VERIFY_EMAIL, Purpose.LOGIN, Purpose.CHANGE_EMAIL):
        await coded.use(purpose, codes[purpose])
    await _refusal(coded.reset(codes[Purpose.RESET_PASSWORD].code))
    shown = "".join(capsys.readouterr())
    for table in ("one_time_codes", "outbox", "audit_events", "rate_limits"):
        shown += repr(await coded.fetch(f"SELECT row_to_json(t)::text FROM {table} t"))
    for issued in (*codes.values(), mailed):
        assert issued.code not in shown
        assert issued.code.encode().hex() not in shown
    assert IP in shown
