"""Each login is counted once, by how it ended."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.lib.time_limit import expire
from authsvc.core.login.federated import OAuthOutcome
from authsvc.core.login.logins import Logins
from authsvc.errors import (
    FieldInvalid,
    Overloaded,
    ProviderUnavailable,
    StoreUnavailable,
    TooManyAttempts,
    credentials_invalid,
    email_not_verified,
)
from authsvc.models.calls import ClientContext
from authsvc.models.factors import LoginOutcome, MfaChallenge
from authsvc.models.incidents import LoginMethod
from authsvc.store import login_freezes as store
from authsvc.store.postgres.database import Database

NOBODY = ClientContext()
CHALLENGE = MfaChallenge("token", ("totp",), datetime(2030, 1, 1, tzinfo=UTC))


@pytest.fixture
def logins(database: Database) -> Logins:
    return Logins(LoginFreezes(database))


def counted(logins: Logins) -> dict[tuple[str, ...], int]:
    return {labels: count for labels, count in logins.counts.read().items() if count}


async def attempt(logins: Logins, method: LoginMethod, end: BaseException | LoginOutcome) -> None:
    async def log_in() -> LoginOutcome:
        if isinstance(end, BaseException):
            raise end
        return end

    if isinstance(end, BaseException):
        with pytest.raises(type(end)):
            await logins.run(method, NOBODY, log_in)
    else:
        await logins.run(method, NOBODY, log_in)


async def test_login_is_counted_by_its_end(logins: Logins) -> None:
    ends: dict[str, list[BaseException | LoginOutcome]] = {
        "second_factor_required": [CHALLENGE],
        "failed": [credentials_invalid(), email_not_verified()],
        "throttled": [TooManyAttempts(1.0)],
        "unavailable": [Overloaded(), StoreUnavailable(), ProviderUnavailable(), KeyError("bug")],
    }
    for each in ends.values():
        for end in each:
            await attempt(logins, LoginMethod.FEDERATED, end)
    # The request was no login, and one whose caller has left has no end.
    await attempt(logins, LoginMethod.FEDERATED, FieldInvalid("email", "is not an address"))
    await attempt(logins, LoginMethod.FEDERATED, asyncio.CancelledError())
    assert counted(logins) == {("federated", name): len(each) for name, each in ends.items()}


async def test_success_and_second_step_are_counted(logins: Logins) -> None:
    async def by_provider() -> OAuthOutcome:
        return OAuthOutcome(CHALLENGE)

    async def second() -> LoginOutcome:
        raise credentials_invalid()

    await logins.run(LoginMethod.FEDERATED, NOBODY, by_provider)
    with pytest.raises(type(credentials_invalid())):
        await logins.run_second_step(second)
    assert counted(logins) == {
        ("federated", "second_factor_required"): 1,
        ("second_factor", "failed"): 1,
    }


async def test_frozen_login_is_counted_and_does_not_begin(
    logins: Logins, database: Database
) -> None:
    async with database.transaction() as connection:
        await store.upsert(connection, uuid4(), (), None, timedelta(hours=1), "cli:test", "test")
    begun = False

    async def log_in() -> LoginOutcome:
        nonlocal begun
        begun = True
        return CHALLENGE

    with pytest.raises(Exception, match="frozen"):
        await logins.run(LoginMethod.CODE, NOBODY, log_in)
    assert not begun
    assert counted(logins) == {("code", "frozen"): 1}


async def test_call_that_the_service_ended_counts_as_unavailable(logins: Logins) -> None:
    waiting = asyncio.Event()

    async def log_in() -> LoginOutcome:
        waiting.set()
        await asyncio.Event().wait()
        return CHALLENGE

    call = asyncio.create_task(logins.run(LoginMethod.PASSWORD, NOBODY, log_in))
    await waiting.wait()
    expire(call)
    await asyncio.gather(call, return_exceptions=True)
    assert counted(logins) == {("password", "unavailable"): 1}
