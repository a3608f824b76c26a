"""Unverified accounts: those possibly in use are kept, and the others are removed entirely."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import pytest_asyncio
from pydantic import ValidationError

from authsvc.config import RetentionSettings, SessionSettings, Settings
from authsvc.core.accounts.accounts import NewUser
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.messages.outbox import MessageKind
from authsvc.core.retention.cleanup import Retention, Step
from authsvc.core.retention.unverified_accounts import KIND, UnverifiedAccounts
from authsvc.models.calls import ClientContext
from authsvc.models.revocations import Revocation
from authsvc.models.users import UserStatus
from authsvc.store import emails, users
from authsvc.store.user_transfer import UserRow, insert_new
from tests.support.accounts import CALL, CLI, EMAIL, IP, PASSWORD
from tests.support.clock import FakeClock
from tests.support.codes import Coded, outcome
from tests.support.databases import until, waits_for_a_lock
from tests.support.factors import Secured
from tests.support.probe import with_changes
from tests.support.service import StartService

PERIOD = timedelta(days=60)
SETTINGS = RetentionSettings(unverified_accounts=PERIOD, batch_size=3)


class Removing:
    """One replica that removes accounts, and an unverified account."""

    def __init__(self, coded: Coded, settings: RetentionSettings = SETTINGS) -> None:
        self.coded, self.database, self.clock = coded, coded.database, coded.clock
        self.forgotten: list[Revocation] = []
        recent = RecentLogin(timedelta(minutes=10), self.clock)
        deletion = AccountDeletion(
            database=self.database,
            recent_login=recent,
            outbox=coded.service.outbox,
            clock=self.clock,
            forget=self.forgotten.append,
        )
        self.accounts = UnverifiedAccounts(
            database=self.database,
            deletion=deletion,
            settings=settings,
            sessions=SessionSettings(),
            clock=self.clock,
        )

    async def age(self, days: float = 61) -> None:
        """Let time pass, and remove everything that has expired."""
        self.clock.advance(timedelta(days=days))
        await Retention(
            database=self.database, settings=RetentionSettings(), clock=self.clock
        ).run_once()

    async def left(self) -> int:
        return int(await self.coded.fetchval("SELECT count(*) FROM users"))


@pytest_asyncio.fixture
async def removing(coded: Coded) -> Removing:
    return Removing(coded)


async def test_unverified_account_is_removed_when_due(removing: Removing) -> None:
    coded = removing.coded
    user_id = await coded.user_id()
    await removing.age(59)
    await coded.service.register("later@example.test")
    removing.clock.advance(timedelta(days=1))
    assert await removing.accounts.remove() == 0
    removing.clock.advance(1)
    assert await removing.accounts.remove() == await removing.left() == 1
    assert removing.forgotten == [Revocation("user", str(user_id))]
    (event,) = await coded.fetch("SELECT * FROM audit_events WHERE type = 'user.delete'")
    assert (event["user_id"], event["caller"]) == (user_id, "system")
    (revoked,) = await coded.fetch("SELECT user_id FROM revocations WHERE user_id IS NOT NULL")
    assert revoked["user_id"] == user_id
    (notice,) = await coded.mailbox(MessageKind.ACCOUNT_DELETED)
    assert notice.address == EMAIL
    assert await outcome(coded.service.register()) == "OK"


@pytest.mark.slow
async def test_removal_is_off_by_default(coded: Coded) -> None:
    removing = Removing(coded, RetentionSettings())
    await removing.age(399)
    assert await removing.accounts.remove() == 0
    assert await removing.left() == 1


@pytest.mark.parametrize("period", ["0s", "23h"])
def test_period_is_at_least_one_day(period: str) -> None:
    with pytest.raises(ValidationError, match="expected a duration of at least 1d"):
        RetentionSettings.model_validate({"unverified_accounts": period})
    RetentionSettings.model_validate({"unverified_accounts": "24h"})


@pytest.mark.slow
@pytest.mark.parametrize("audit_events", ["1d", "59d", "400d"])
async def test_audit_retention_does_not_affect_removal(audit_events: str, coded: Coded) -> None:
    periods = {"unverified_accounts": "59d", "audit_events": audit_events}
    settings = RetentionSettings.model_validate(periods)
    removing = Removing(coded, settings)
    others = {KIND: Step(removing.accounts.remove, removing.accounts.plan)}
    retention = Retention(
        database=removing.database, settings=settings, clock=removing.clock, others=others
    )
    removing.clock.advance(timedelta(days=59))
    assert (await retention.run_once())["unverified_accounts"] == 0
    assert (await retention.plan())[-1].due == 0
    removing.clock.advance(timedelta(days=1))
    assert (await retention.plan())[-1].due == 1
    assert (await retention.run_once())["unverified_accounts"] == 1


async def test_running_service_removes_unverified_account(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    often = {"unverified_accounts": PERIOD, "interval": timedelta(milliseconds=10)}
    service = await start_service(with_changes(live_settings, "retention", **often), clock)
    await service.register()
    clock.advance(PERIOD + timedelta(seconds=1))

    async def is_gone() -> bool:
        return not await service.fetch("SELECT FROM users")

    await until(is_gone)


async def verify(removing: Removing) -> None:
    coded = removing.coded
    await coded.verify((await coded.request(Purpose.VERIFY_EMAIL)).code)


async def log_in(removing: Removing) -> None:
    client = ClientContext(IP, "Browser", "")
    tokens = await removing.coded.service.log_in(CALL, EMAIL, PASSWORD, client)
    await removing.coded.service.sessions.ending.log_out(CALL, tokens.refresh_token)


async def begin_login(removing: Removing) -> None:
    """Pass the first of two factors; the second one is removed later."""
    secured, user_id = Secured(removing.coded.service), await removing.coded.user_id()
    await secured.secure_unproved(user_id)
    await secured.challenge()
    await removing.coded.fetch("DELETE FROM factors")
    await removing.coded.fetch("UPDATE users SET has_second_factor = false")


async def create_session(removing: Removing) -> None:
    service, user_id = removing.coded.service, await removing.coded.user_id()
    await service.sessions.opening.create(CALL, user_id, ClientContext(), ["hwk"])
    await service.sessions.ending.revoke_all(CALL, user_id)


async def refresh(removing: Removing) -> None:
    """Log in once and refresh that session for as long as it lives."""
    service, user_id = removing.coded.service, await removing.coded.user_id()
    tokens = await service.sessions.opening.create(CALL, user_id, ClientContext(), ["hwk"])
    for _ in range(5):
        removing.clock.advance(timedelta(days=6) - timedelta(seconds=1))
        tokens = await service.sessions.refreshing.refresh(
            CALL, tokens.refresh_token, ClientContext()
        )


async def rename(removing: Removing) -> None:
    coded = removing.coded
    await coded.service.accounts.rename(CALL, coded.claims(await coded.user_id()), "Ada")


# Uses that keep an account for the whole period from then on, and no longer.
USES: dict[str, Callable[[Removing], Awaitable[None]]] = {
    "login": log_in,
    "begun login": begin_login,
    "session": create_session,
    "refresh": refresh,
    "change": rename,
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
async def test_account_in_use_is_kept(use: str, removing: Removing) -> None:
    await removing.age(50)
    await USES[use](removing)
    await removing.age(59)
    assert await removing.accounts.remove() == 0
    await removing.age(60)
    assert await removing.accounts.remove() == 1


async def disable(removing: Removing) -> None:
    await removing.coded.service.accounts.disable(CLI, EMAIL)


async def hold_identity(removing: Removing) -> None:
    await removing.coded.fetch(
        "INSERT INTO identities (provider, subject, user_id, create_time, last_use_time)"
        " SELECT 'github', '1', user_id, create_time, create_time FROM users"
    )


async def hold_key(removing: Removing) -> None:
    await removing.coded.fetch(
        "INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, create_time,"
        " expire_time) SELECT user_id, user_id, '', '', '', '{}', create_time, 'infinity'"
        " FROM users"
    )


async def hold_factor(removing: Removing) -> None:
    user_id = await removing.coded.user_id()
    await Secured(removing.coded.service).secure_unproved(user_id)


async def hold_session(removing: Removing) -> None:
    await create_session(removing)
    await removing.coded.fetch("UPDATE users SET last_login_time = NULL")
    await removing.coded.fetch(
        "UPDATE sessions SET revoke_time = NULL, revoke_reason = NULL,"
        " idle_expire_time = 'infinity', absolute_expire_time = 'infinity'"
    )


async def be_made_by_an_operator(removing: Removing) -> None:
    await removing.coded.fetch("DELETE FROM users")
    await removing.coded.service.accounts.create_user(CLI, NewUser(EMAIL, PASSWORD))


async def be_imported(removing: Removing) -> None:
    row = UserRow(
        user_id=await removing.coded.user_id(),
        email=EMAIL,
        email_canonical=EMAIL.lower(),
        display_name="",
        phc=None,
        pepper_id=None,
        roles=("user",),
        status=UserStatus.ACTIVE,
        create_time=removing.clock.now(),
        email_verify_time=None,
    )
    await removing.coded.fetch("DELETE FROM users")
    async with removing.database.connection() as connection:
        assert await insert_new(connection, [row], row.create_time)


async def be_made_by_the_previous_version(removing: Removing) -> None:
    """The previous version runs beside this one during a rolling update and stores no origin."""
    user_id = await removing.coded.user_id()
    await removing.coded.fetch("DELETE FROM users")
    await removing.coded.fetch(
        "INSERT INTO users (user_id, email, email_canonical, display_name, password_hash,"
        " pepper_id, roles, status, create_time, update_time, email_verify_time)"
        f" VALUES ('{user_id}', 'a@b.test', 'a@b.test', '', NULL, NULL, '{{user}}', 'active',"
        f" '{removing.clock.now()}', '{removing.clock.now()}', NULL)"
    )


KEEPING: dict[str, Callable[[Removing], Awaitable[None]]] = {
    "proved": verify,
    "disabled": disable,
    "identity": hold_identity,
    "key": hold_key,
    "factor": hold_factor,
    "session": hold_session,
    "operator": be_made_by_an_operator,
    "import": be_imported,
    "unknown": be_made_by_the_previous_version,
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", KEEPING)
async def test_account_that_may_be_missed_is_kept(reason: str, removing: Removing) -> None:
    await KEEPING[reason](removing)
    await removing.age(200)
    assert await removing.accounts.remove() == 0
    assert await removing.left() == 1


@pytest.mark.slow
async def test_activity_by_strangers_does_not_keep_account(removing: Removing) -> None:
    await removing.age()
    for purpose in (Purpose.VERIFY_EMAIL, Purpose.LOGIN, Purpose.RESET_PASSWORD):
        await removing.coded.request(purpose)
    assert await removing.coded.service.login("Wrong-Guess-1815") == "CREDENTIALS_INVALID"
    assert await removing.accounts.remove() == 1


@pytest.mark.slow
async def test_replicas_share_the_work_in_batches(removing: Removing) -> None:
    for number in range(19):
        await removing.coded.service.register(f"{number}@example.test")
    await removing.coded.fetch("UPDATE users SET email_verify_time = now() WHERE email LIKE '1%'")
    await removing.age()
    replicas = [Removing(removing.coded) for _ in range(3)]
    removed = await asyncio.gather(*(replica.accounts.remove() for replica in replicas))
    assert sum(removed) == await removing.left() == 10
    assert (await removing.coded.events())["user.delete"] == 10


@pytest.mark.slow
async def test_removal_continues_where_it_stopped(
    removing: Removing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.retention.unverified_accounts._PAGES", 1)
    for number in range(6):
        await removing.coded.service.register(f"{number}@example.test")
    await removing.coded.fetch(
        "UPDATE users SET email_verify_time = now()"
        " WHERE user_id IN (SELECT user_id FROM users ORDER BY user_id LIMIT 3)"
    )
    await removing.age()
    assert [await removing.accounts.remove() for _ in range(4)] == [0, 3, 1, 0]
    await removing.coded.service.register("last@example.test")
    await removing.age()
    assert await removing.accounts.remove() == 1


@pytest.mark.slow
async def test_failing_removal_does_not_block_others(removing: Removing) -> None:
    await removing.coded.service.register("next@example.test")
    await removing.age()
    await removing.coded.fetch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE lock_not_available; END $$"
    )
    await removing.coded.fetch(
        "CREATE TRIGGER refuse BEFORE DELETE ON users FOR EACH ROW"
        f" WHEN (OLD.email = '{EMAIL}') EXECUTE FUNCTION refuse()"
    )
    assert await outcome(removing.accounts.remove()) == "STORE_UNAVAILABLE"
    assert await removing.accounts.remove() == 1
    # It is retried in each pass over all accounts.
    await removing.coded.fetch("DROP TRIGGER refuse ON users")
    assert await removing.accounts.remove() == 1
    assert await removing.left() == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["verified", "logged in"])
async def test_user_verifying_or_logging_in_during_removal_is_kept(
    way: str, removing: Removing
) -> None:
    coded = removing.coded
    user_id = await coded.user_id()
    await removing.age()

    async def waits() -> bool:
        async with removing.database.connection() as looking:
            return await waits_for_a_lock(looking)

    async with removing.database.transaction() as connection:
        await users.lock_user(connection, user_id)
        task = asyncio.create_task(removing.accounts.remove())
        await until(waits)
        if way == "verified":
            now = removing.clock.now()
            assert await emails.verify(connection, user_id, EMAIL.lower(), now)
        else:
            user = await users.get(connection, user_id)
            assert user is not None
            await coded.service.sessions.opening.log_in(
                connection, CALL, user, ClientContext(), ["pwd"]
            )
    assert await task == 0
    assert await removing.left() == 1
    assert removing.forgotten == []


@pytest.mark.slow
async def test_acknowledged_verification_or_login_keeps_account(removing: Removing) -> None:
    coded = removing.coded
    for number in range(10):
        email = f"user{number}@example.test"
        await coded.service.register(email)
        removing.clock.advance(PERIOD + timedelta(seconds=1))
        issued = await coded.request(Purpose.VERIFY_EMAIL, email)
        if number % 2:
            comes = outcome(coded.verify(issued.code, email))
        else:
            comes = coded.service.login(email=email)
        came, _ = await asyncio.gather(comes, removing.accounts.remove())
        left = await coded.fetchval("SELECT count(*) FROM users WHERE email = $1", email)
        assert (came, left) in [("OK", 1), ("CODE_INVALID", 0), ("CREDENTIALS_INVALID", 0)]
