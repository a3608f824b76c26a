"""Nothing that a caller can see or count reveals whether an account exists (ASVS 6.3.8).

Timing is measured by `python -m tests.bench.enumeration`, not asserted here.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from argon2 import Parameters

from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library
from authsvc.errors import Overloaded, ServiceError, TooManyAttempts
from authsvc.models.calls import ClientContext
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL, CLI, IP, PASSWORD, WRONG, Service, unlimited
from tests.support.clock import FakeClock
from tests.support.databases import opened

ACCOUNTS = ("unknown", "wrong", "locked", "disabled", "without")


def _email(account: str) -> str:
    return f"{account}@example.test"


@pytest_asyncio.fixture
async def single(database_dsn: str) -> AsyncIterator[Database]:
    """A pool of one connection, so that statements run one after another."""
    async with opened(database_dsn, pool_max=1) as database:
        yield database


async def _accounts(service: Service) -> None:
    """Create an account of each kind; the tests try all but "wrong" with the right password."""
    for account in ACCOUNTS[1:]:
        await service.register(_email(account))
    await service.accounts.disable(CLI, _email("disabled"))
    async with service.database.connection() as conn:
        await conn.execute(
            "UPDATE users SET failed_logins = 100 WHERE email_canonical = $1", _email("locked")
        )
        await conn.execute(
            "UPDATE users SET password_hash = NULL, pepper_id = NULL WHERE email_canonical = $1",
            _email("without"),
        )


@pytest_asyncio.fixture
async def service(single: Database, clock: FakeClock) -> AsyncIterator[Service]:
    started = await Service(single, clock, unlimited()).start()
    await _accounts(started)
    yield started
    started.hasher.close()


async def _failure(service: Service, account: str, device: str = "") -> ServiceError:
    password = WRONG if account == "wrong" else PASSWORD
    with pytest.raises(ServiceError) as refused:
        await service.log_in(CALL, _email(account), password, ClientContext(IP, "Test", device))
    return refused.value


async def _statements(service: Service, account: str, device: str) -> list[str]:
    """Return the statements of one failing login, in order."""
    statements: list[str] = []

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        statements.append(query.query)

    async with service.database.connection() as conn:
        conn.add_query_logger(note)
    await _failure(service, account, device)
    async with service.database.connection() as conn:
        # Loggers are called in the next iteration of the event loop.
        await asyncio.sleep(0)
        conn.remove_query_logger(note)
    return statements


async def test_error_is_same_for_every_account(service: Service) -> None:
    def shown(error: ServiceError) -> tuple[object, ...]:
        return (type(error), error.reason, error.message, dict(error.metadata), error.args)

    errors = {account: shown(await _failure(service, account)) for account in ACCOUNTS}
    assert errors == dict.fromkeys(ACCOUNTS, errors["wrong"])
    assert "CREDENTIALS_INVALID" in errors["wrong"]


@pytest.mark.parametrize("device", ["", "phone-1"])
async def test_statements_are_same_for_every_account(service: Service, device: str) -> None:
    # Once beforehand, so that whatever is prepared or cached on first use is so for every account.
    await _failure(service, "wrong", device)
    statements = {account: await _statements(service, account, device) for account in ACCOUNTS}
    assert len(statements["wrong"]) >= 4
    assert statements == dict.fromkeys(ACCOUNTS, statements["wrong"])


async def test_one_password_is_hashed_at_same_cost_for_every_account(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[Parameters] = []
    compute = argon2id.compute

    def note(secret: bytes, salt: bytes, cost: Parameters, library: Library) -> bytes:
        costs.append(cost)
        return compute(secret, salt, cost, library)

    monkeypatch.setattr(argon2id, "compute", note)
    hashed = {}
    for account in ACCOUNTS:
        costs.clear()
        await _failure(service, account)
        hashed[account] = list(costs)
    assert len(hashed["wrong"]) == 1
    assert hashed == dict.fromkeys(ACCOUNTS, hashed["wrong"])


async def test_unknown_accounts_are_throttled_alike(database: Database, clock: FakeClock) -> None:
    service = await Service(database, clock).start()
    await _accounts(service)

    async def attempt(account: str, ip: str) -> tuple[str, bool]:
        password = WRONG if account == "wrong" else PASSWORD
        try:
            await service.log_in(CALL, _email(account), password, ClientContext(ip))
        except TooManyAttempts as error:
            return error.reason, error.retry_after > 0
        except ServiceError as error:
            return error.reason, False
        return "OK", False

    # Each account has its own IP addresses: five attempts from the first, then one from each new
    # one.
    seen: dict[str, list[tuple[str, bool]]] = {account: [] for account in ACCOUNTS}
    for turn in range(30):
        for subnet, account in enumerate(ACCOUNTS):
            host = 1 if turn < 7 else turn
            seen[account].append(await attempt(account, f"10.0.{subnet}.{host}"))
    service.hasher.close()
    assert seen == dict.fromkeys(ACCOUNTS, seen["wrong"])
    refused = [reason == "TOO_MANY_ATTEMPTS" for reason, _ in seen["wrong"]]
    assert refused == [False] * 5 + [True] * 2 + [False] * 15 + [True] * 8


async def test_known_and_unknown_accounts_share_ip_limit(
    database: Database, clock: FakeClock
) -> None:
    service = await Service(database, clock).start()
    await service.register(_email("wrong"))
    seen = []
    for n in range(60):
        email = _email("wrong") if n % 20 == 0 else f"nobody{n}@example.test"
        seen.append(await service.login(WRONG, email=email))
    service.hasher.close()
    assert seen == ["CREDENTIALS_INVALID"] * 50 + ["TOO_MANY_ATTEMPTS"] * 10


async def test_full_hash_queue_rejects_every_account_alike(service: Service) -> None:
    async def full() -> None:
        raise Overloaded

    await _failure(service, "wrong")
    service.hasher.before = full
    statements = {account: await _statements(service, account, "") for account in ACCOUNTS}
    assert statements == dict.fromkeys(ACCOUNTS, statements["wrong"])
    errors = {account: repr(await _failure(service, account)) for account in ACCOUNTS}
    assert errors == dict.fromkeys(ACCOUNTS, errors["wrong"])
    assert "overloaded" in errors["wrong"]
