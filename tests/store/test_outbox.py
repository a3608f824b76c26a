"""Messages in the outbox: each is claimed by one deliverer at a time, and ended once."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from authsvc.store import outbox
from authsvc.store.outbox import NewMessage, StoredMessage
from authsvc.store.postgres.database import Connection, Database
from tests.support.stored import NOW

MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)


async def _insert(connection: Connection, *, at: datetime = NOW, decoy: bool = False) -> UUID:
    message = NewMessage(uuid4(), "kind", None, b"sealed", at, at + 10 * MINUTE, decoy=decoy)
    assert await outbox.insert(connection, message)
    return message.message_id


async def _claim(
    connection: Connection, now: datetime, limit: int = 10, *, only_expired: bool = False
) -> list[StoredMessage]:
    return await outbox.claim(connection, now, now + MINUTE, limit, only_expired=only_expired)


async def _states(connection: Connection) -> dict[UUID, tuple[str, datetime, str]]:
    rows = await connection.fetch("SELECT message_id, state, next_time, last_error FROM outbox")
    return {row["message_id"]: tuple(row)[1:] for row in rows}


async def test_message_is_claimed_when_due_and_then_left_to_its_deliverer(
    database: Database,
) -> None:
    async with database.connection() as connection:
        name = await _insert(connection)
        assert await _claim(connection, NOW - TICK) == []
        attempts = [
            [message.attempts for message in await _claim(connection, now)]
            for now in (NOW, NOW + MINUTE - TICK, NOW + MINUTE)
        ]
        assert attempts == [[1], [], [2]]
        assert set(await _states(connection)) == {name}


async def test_claims_are_limited_and_leave_decoys_and_sent_messages(database: Database) -> None:
    async with database.connection() as connection:
        await _insert(connection, decoy=True)
        sent, *due = [await _insert(connection, at=NOW + n * TICK) for n in range(4)]
        await outbox.mark_sent(connection, sent, NOW)
        first = await _claim(connection, NOW + MINUTE, 2)
        second = await _claim(connection, NOW + MINUTE, 2)
        assert {message.message_id for message in first} == set(due[:2])
        assert [message.message_id for message in second] == due[2:]


async def test_expired_messages_can_be_claimed_alone(database: Database) -> None:
    async with database.connection() as connection:
        expired = await _insert(connection, at=NOW - 10 * MINUTE)
        await _insert(connection, at=NOW - 10 * MINUTE + TICK)
        claimed = await _claim(connection, NOW, only_expired=True)
        assert [message.message_id for message in claimed] == [expired]


async def test_messages_being_claimed_are_skipped_without_waiting(database: Database) -> None:
    async with database.transaction() as connection:
        async with database.connection() as other:
            for n in range(2):
                await _insert(other, at=NOW + n * TICK)
        first = await _claim(connection, NOW + MINUTE, 1)
        async with database.connection() as other:
            await other.execute("SET lock_timeout = '1s'")
            second = await _claim(other, NOW + MINUTE, 10)
            await other.execute("RESET lock_timeout")
    assert len(first) == len(second) == 1
    assert first[0].message_id != second[0].message_id


async def test_only_named_pending_message_is_marked_as_sent(database: Database) -> None:
    async with database.connection() as connection:
        first, second = [await _insert(connection) for _ in range(2)]
        claimed = {message.message_id: message for message in await _claim(connection, NOW)}
        assert await outbox.abandon(connection, claimed[first], NOW, "gone")
        for name in (first, second, uuid4()):
            await outbox.mark_sent(connection, name, NOW)
        third = await _insert(connection)
        states = {name: state for name, (state, *_) in (await _states(connection)).items()}
        assert states == {first: "abandoned", second: "sent", third: "pending"}


@pytest.mark.parametrize("change", ["postpone", "abandon"])
async def test_failed_attempt_changes_only_its_message_while_it_is_the_latest(
    database: Database, change: str
) -> None:
    async with database.connection() as connection:
        first, second = [await _insert(connection) for _ in range(2)]

        async def fail(message: StoredMessage) -> bool:
            if change == "abandon":
                return await outbox.abandon(connection, message, NOW, "failed")
            before = await _states(connection)
            await outbox.postpone(connection, message, NOW + 2 * MINUTE, "failed")
            return before != await _states(connection)

        old = {message.message_id: message for message in await _claim(connection, NOW)}
        new = {message.message_id: message for message in await _claim(connection, NOW + MINUTE)}
        assert not await fail(old[first])
        assert await fail(new[first])
        states = await _states(connection)
        assert states[first][2] == "failed"
        assert states[second][0] == "pending"
        assert states[second][2] == ""
        await outbox.mark_sent(connection, second, NOW)
        assert not await fail(new[second])
