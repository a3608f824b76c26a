"""The delivery of messages: never lost, never twice without need, given up in the open."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from authsvc.core.messages.delivery import Deliverer, NotDelivered
from authsvc.core.messages.outbox import Message, MessageKind
from authsvc.core.messages.templates import RenderedMessage
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.delivering import ADDRESS, CODE, Mail, TestChannel


@pytest.fixture
def mail(database: Database, clock: FakeClock) -> Mail:
    return Mail(database, clock)


@pytest_asyncio.fixture
async def deliverer(mail: Mail) -> AsyncIterator[Deliverer]:
    made = mail.deliverer()
    yield made
    await made.stop(timedelta())


async def test_a_message_goes_to_the_address_that_was_stored(
    mail: Mail, deliverer: Deliverer
) -> None:
    await mail.write_code()
    await deliverer.deliver_due()
    (rendered,) = mail.channel.sent
    (row,) = await mail.rows()
    assert rendered.message_id == row["message_id"]
    assert (rendered.message.address, rendered.message.code) == (ADDRESS, CODE)
    assert rendered.content.text == f"{CODE}|"
    assert (row["state"], row["sealed_content"]) == ("sent", b"")
    await deliverer.deliver_due()
    assert mail.channel.tried == 1


async def test_what_is_rolled_back_is_not_sent(mail: Mail, deliverer: Deliverer) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with mail.database.transaction() as connection:
            await mail.outbox.enqueue(connection, Message(MessageKind.EMAIL_CHANGED, ADDRESS, None))
            raise ZeroDivisionError
    await deliverer.deliver_due()
    assert (mail.channel.tried, await mail.rows()) == (0, [])


async def test_a_decoy_is_never_sent(mail: Mail, deliverer: Deliverer, clock: FakeClock) -> None:
    async with mail.database.transaction() as connection:
        for kind in MessageKind:
            await mail.outbox.enqueue_decoy(connection, kind)
    clock.advance(timedelta(days=2))
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert {row["state"] for row in await mail.rows()} == {"decoy"}


async def test_a_row_whose_address_was_changed_is_not_sent(
    mail: Mail, deliverer: Deliverer
) -> None:
    """Who can write the table can't have a code sent elsewhere: rows are sealed, each its own."""
    await mail.write_code()
    await mail.write()
    await mail.rows(
        "UPDATE outbox SET sealed_content = (SELECT sealed_content FROM outbox other "
        "WHERE other.message_id <> outbox.message_id)"
    )
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert await mail.states() == [("pending", "unreadable")] * 2


async def test_a_failure_is_tried_again_ever_later(mail: Mail, clock: FakeClock) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered("connection")

    mail.channel.before = fail
    deliverer = mail.deliverer(first_retry="4s", longest_retry="60s")
    await mail.write()
    pauses = []
    for attempt in range(1, 8):
        await deliverer.deliver_due()
        assert mail.channel.tried == attempt
        (row,) = await mail.rows()
        assert (row["state"], row["last_error"]) == ("pending", "connection")
        pauses.append((row["next_time"] - clock.now()).total_seconds())
        clock.advance(row["next_time"] - clock.now())
    for pause, most in zip(pauses, (4, 8, 16, 32, 60, 60, 60), strict=True):
        assert most / 2 <= pause <= most
    assert len(set(pauses)) == len(pauses), "replicas would try in step"

    mail.channel.before = None
    await deliverer.deliver_due()
    assert await mail.states() == [("sent", "")]
    assert mail.outcomes == {"retried": 7, "sent": 1}


@pytest.mark.parametrize(("asked", "given"), [(45.0, 45), (1e9, 60)])
async def test_a_pause_that_was_asked_for_is_kept_within_bounds(
    mail: Mail, clock: FakeClock, asked: float, given: float
) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered("busy", retry_after=asked)

    mail.channel.before = fail
    await mail.write()
    await mail.deliverer(first_retry="1s", longest_retry="60s").deliver_due()
    (row,) = await mail.rows()
    assert row["next_time"] - clock.now() == timedelta(seconds=given)


async def test_what_can_never_succeed_is_given_up_at_once_and_told(mail: Mail) -> None:
    async def refuse(_: RenderedMessage) -> None:
        raise NotDelivered("recipient_refused", permanent=True)

    mail.channel.before = refuse
    await mail.write_code()
    deliverer = mail.deliverer()
    with capture_logs() as logs:
        await deliverer.deliver_due()
    assert await mail.states() == [("abandoned", "recipient_refused")]
    (event,) = await mail.rows("SELECT type, detail FROM audit_events")
    assert event["type"] == "message.abandon"
    written = f"{event['detail']} {logs}"
    assert "recipient_refused" in written
    assert "login_code" in written
    assert not any(secret in written for secret in (ADDRESS, CODE))


async def test_after_long_enough_it_is_given_up_with_its_cause(
    mail: Mail, clock: FakeClock, deliverer: Deliverer
) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered("connection")

    mail.channel.before = fail
    await mail.write()
    await deliverer.deliver_due()
    clock.advance(timedelta(hours=24))
    await deliverer.deliver_due()
    assert await mail.states() == [("abandoned", "connection")]
    assert mail.channel.tried == 1


async def test_a_code_that_has_expired_is_not_sent(
    mail: Mail, clock: FakeClock, deliverer: Deliverer
) -> None:
    await mail.write_code(timedelta(minutes=10))
    clock.advance(timedelta(minutes=10))
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert await mail.states() == [("abandoned", "expired")]


async def test_without_a_channel_messages_wait_until_they_expire(
    mail: Mail, clock: FakeClock
) -> None:
    await mail.write_code(timedelta(minutes=10))
    await mail.write()
    deliverer = mail.deliverer(no_channel=True)
    await deliverer.deliver_due()
    assert await mail.states() == [("pending", "")] * 2
    clock.advance(timedelta(minutes=10))
    await deliverer.deliver_due()
    assert await mail.states() == [("abandoned", "expired"), ("pending", "")]
    await mail.deliverer().deliver_due()
    assert await mail.states() == [("abandoned", "expired"), ("sent", "")]


async def test_how_many_wait_and_were_given_up_is_counted(mail: Mail) -> None:
    async def refuse(_: RenderedMessage) -> None:
        raise NotDelivered("recipient_refused", permanent=True)

    await mail.write()
    await mail.deliverer(TestChannel(before=refuse)).deliver_due()
    for _ in range(3):
        await mail.write()
    deliverer = mail.deliverer(no_channel=True)
    await deliverer._count_sometimes()
    assert (deliverer.pending, deliverer.abandoned) == (3, 1)
