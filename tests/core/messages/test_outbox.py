"""Enqueueing messages to a user, and what their rows reveal."""

from datetime import timedelta

import asyncpg
import pytest

from authsvc.config import RetentionSettings
from authsvc.core.lib.sealing import SealError
from authsvc.core.messages.outbox import CODE_KINDS, Message, MessageKind, Outbox, unseal
from authsvc.core.retention.cleanup import Retention
from authsvc.store.postgres.database import Database
from tests.support.accounts import KEYRING
from tests.support.clock import FakeClock
from tests.support.sessions import World

_DAY = timedelta(days=1)
_CODE = "83120476"


async def _rows(database: Database) -> list[asyncpg.Record]:
    async with database.connection() as connection:
        return await connection.fetch("SELECT * FROM outbox ORDER BY message_id")


def _message(kind: MessageKind, clock: FakeClock, **values: str) -> Message:
    if kind in CODE_KINDS:
        expire_time = clock.now() + timedelta(minutes=10)
        return Message(kind, "ada@example.test", None, _CODE, expire_time, values)
    return Message(kind, "ada@example.test", None, values=values)


@pytest.mark.parametrize("kind", list(MessageKind))
async def test_message_is_stored_sealed_and_read_back(
    database: Database, clock: FakeClock, kind: MessageKind
) -> None:
    message = _message(kind, clock, display_name="Ada Lovelace")
    async with database.transaction() as connection:
        await Outbox(KEYRING, _DAY, clock).enqueue(connection, message)

    (row,) = await _rows(database)
    assert (row["kind"], row["state"], row["next_time"]) == (kind.value, "pending", clock.now())
    assert row["expire_time"] == (message.expire_time or clock.now() + _DAY)
    shown = repr(tuple(row)) + row["sealed_content"].decode("latin-1")
    assert not any(text in shown for text in ("ada@example.test", _CODE, "Lovelace"))
    read = unseal(KEYRING, row["message_id"], kind, None, row["sealed_content"])
    assert read == message


async def test_content_of_another_row_does_not_open(database: Database, clock: FakeClock) -> None:
    outbox = Outbox(KEYRING, _DAY, clock)
    async with database.transaction() as connection:
        for _ in range(2):
            await outbox.enqueue(connection, _message(MessageKind.LOGIN_CODE, clock))
    first, second = await _rows(database)
    with pytest.raises(SealError):
        unseal(KEYRING, first["message_id"], MessageKind.LOGIN_CODE, None, second["sealed_content"])


@pytest.mark.parametrize("kind", list(MessageKind))
async def test_decoy_is_stored_as_finished_row(
    database: Database, clock: FakeClock, kind: MessageKind
) -> None:
    async with database.transaction() as connection:
        await Outbox(KEYRING, _DAY, clock).enqueue_decoy(connection, kind)
    (row,) = await _rows(database)
    assert (row["kind"], row["state"], row["end_time"]) == (kind.value, "decoy", clock.now())


async def test_deleting_user_deletes_their_messages(
    database: Database, clock: FakeClock, world: World
) -> None:
    user_id = await world.add_user()
    message = Message(MessageKind.PASSWORD_CHANGED, "ada@example.test", user_id)
    async with database.transaction() as connection:
        await Outbox(KEYRING, _DAY, clock).enqueue(connection, message)
    assert len(await _rows(database)) == 1
    async with database.connection() as connection:
        await connection.execute("DELETE FROM users")
    assert await _rows(database) == []


def test_only_code_kinds_may_carry_a_code(clock: FakeClock) -> None:
    for kind in MessageKind:
        carries = kind in CODE_KINDS
        with pytest.raises(ValueError, match="do not match"):
            Message(kind, "a@b.test", None, code="" if carries else _CODE)
        with pytest.raises(ValueError, match="do not match"):
            Message(kind, "a@b.test", None, expire_time=None if carries else clock.now())


def test_message_repr_hides_content(clock: FakeClock) -> None:
    shown = repr(_message(MessageKind.LOGIN_CODE, clock, display_name="Ada Lovelace"))
    assert not any(text in shown for text in ("ada@example.test", _CODE, "Lovelace"))


@pytest.mark.slow
async def test_retention_removes_finished_messages_and_keeps_pending_ones(
    database: Database, clock: FakeClock
) -> None:
    outbox = Outbox(KEYRING, _DAY, clock)
    settings = RetentionSettings(batch_size=2)
    async with database.transaction() as connection:
        for kind in MessageKind:
            await outbox.enqueue_decoy(connection, kind)
        await outbox.enqueue(connection, _message(MessageKind.PASSWORD_CHANGED, clock))
    retention = Retention(database=database, settings=settings, clock=clock)
    clock.advance(settings.messages)
    assert (await retention.run_once())["messages"] == 0
    clock.advance(timedelta(seconds=1))
    assert (await retention.run_once())["messages"] == len(MessageKind)
    assert [row["state"] for row in await _rows(database)] == ["pending"]
