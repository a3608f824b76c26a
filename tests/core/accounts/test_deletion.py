"""Erasing an account completes or resumes, however long its history, without table scans."""

from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from authsvc.core.accounts import deletion as account_deletion
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.messages.outbox import Outbox
from authsvc.errors import NotFound, StoreUnavailable
from authsvc.models.ids import UserId
from authsvc.models.revocations import Revocation
from authsvc.store import deletion as store
from authsvc.store.postgres.database import Database
from tests.support.accounts import CALL, KEYRING, Service
from tests.support.clock import FakeClock
from tests.support.logins import value

PERSONAL = (
    "SELECT count(*) FROM audit_events WHERE ip IS NOT NULL OR user_agent <> '' OR detail ? 'email'"
)
BATCH = 10


class Erasing:
    """An account with a history, and the use case that erases it."""

    def __init__(self, service: Service, clock: FakeClock) -> None:
        self.database = service.database
        self.service = service
        self.forgotten: list[Revocation] = []
        outbox = Outbox(KEYRING, timedelta(hours=1), clock)
        recent = RecentLogin(timedelta(minutes=10), clock)
        self.deletion = AccountDeletion(
            database=service.database,
            recent_login=recent,
            outbox=outbox,
            clock=clock,
            forget=self.forgotten.append,
        )

    async def user(self) -> UserId:
        return UserId(await self.value("SELECT user_id FROM users"))

    async def live(self, events: int) -> None:
        """Add events to the account's history, two per point in time."""
        await self.execute(
            "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id, user_id, ip,"
            " user_agent, detail) SELECT gen_random_uuid(), now() + n / 2 * interval '1 us',"
            " '', '', '', user_id, '192.0.2.1', 'Browser', '{\"email\": \"a@b.test\"}'"
            " FROM users, generate_series(1, $1::int) AS n",
            events,
        )

    async def execute(self, statement: str, *arguments: Any) -> None:
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)

    async def value(self, statement: str) -> Any:
        return await value(self.database, statement)


@pytest_asyncio.fixture
async def erasing(limited: Service, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Erasing:
    monkeypatch.setattr(account_deletion, "_BATCH", BATCH)
    return Erasing(limited, clock)


@pytest.mark.parametrize("events", [0, 1, 8, 9, 10, 99])
async def test_erasure_scrubs_entire_history(events: int, erasing: Erasing) -> None:
    await erasing.live(events)
    user_id = await erasing.user()
    before = await erasing.value("SELECT count(*) FROM audit_events")
    await erasing.deletion.erase(CALL, user_id)
    assert await erasing.value(PERSONAL) == 0
    assert await erasing.value("SELECT count(*) FROM audit_events") == before + 1
    assert await erasing.value("SELECT count(*) FROM users") == 0
    assert erasing.forgotten == [Revocation("user", str(user_id))]


async def test_erasure_keeps_data_of_other_users(erasing: Erasing) -> None:
    user_id = await erasing.user()
    await erasing.service.register("b@example.test")
    await erasing.live(30)
    kept = await erasing.value(PERSONAL) // 2
    await erasing.deletion.erase(CALL, user_id)
    assert await erasing.value(PERSONAL) == kept > 0
    assert await erasing.value("SELECT count(*) FROM users") == 1


async def test_why_the_user_was_impersonated_is_erased_and_why_sessions_ended_is_not(
    erasing: Erasing,
) -> None:
    user_id = await erasing.user()
    insert = (
        "INSERT INTO audit_events (event_id, occur_time, type, caller, request_id, user_id, ip,"
        " user_agent, detail) SELECT gen_random_uuid(), now(), $1, '', '', $2, NULL, '',"
        " jsonb_build_object('reason', $3::text)"
    )
    await erasing.execute(insert, "session.impersonate", user_id, "a@b.test can't log in")
    await erasing.execute(insert, "session.revoke", user_id, "revoked")
    await erasing.deletion.erase(CALL, user_id)
    left = "SELECT string_agg(detail ->> 'reason', ',') FROM audit_events"
    assert await erasing.value(left) == "revoked"


@pytest.mark.slow
async def test_interrupted_erasure_is_resumed(
    erasing: Erasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await erasing.live(95)
    user_id = await erasing.user()
    scrub = store.scrub_events
    scrubbed: list[dict[str, Any]] = []

    async def twice(*arguments: Any, **more: Any) -> None:
        if len(scrubbed) == 2:
            raise StoreUnavailable
        scrubbed.append(more)
        await scrub(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store, "scrub_events", twice)
        with pytest.raises(StoreUnavailable):
            await erasing.deletion.erase(CALL, user_id)
    # Two batches are scrubbed, and the account is unchanged.
    assert 70 <= await erasing.value(PERSONAL) <= 76
    assert await erasing.service.login() == "OK"
    assert erasing.forgotten == []
    await erasing.deletion.erase(CALL, user_id)
    assert await erasing.value(PERSONAL) == 0


async def test_failure_in_final_step_rolls_it_back(
    erasing: Erasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = await erasing.user()
    tables = ("users", "outbox", "one_time_codes", "revocations")
    counts = [await erasing.value(f"SELECT count(*) FROM {table}") for table in tables]

    async def fail(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(store, "delete", fail)
    with pytest.raises(StoreUnavailable):
        await erasing.deletion.erase(CALL, user_id)
    assert [await erasing.value(f"SELECT count(*) FROM {table}") for table in tables] == counts
    assert await erasing.service.login() == "OK"
    assert erasing.forgotten == []


@pytest.mark.slow
async def test_erasing_deleted_user_returns_not_found(erasing: Erasing) -> None:
    user_id = await erasing.user()
    await erasing.live(30)
    await erasing.deletion.erase(CALL, user_id)
    events = await erasing.value("SELECT count(*) FROM audit_events")
    with pytest.raises(NotFound):
        await erasing.deletion.erase(CALL, user_id)
    assert await erasing.value("SELECT count(*) FROM audit_events") == events


async def test_every_foreign_key_is_indexed(database: Database) -> None:
    without = """
        SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1]
            AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'
                 AND indnkeyatts = 1))
    """
    async with database.connection() as connection:
        assert await connection.fetch(without) == []
