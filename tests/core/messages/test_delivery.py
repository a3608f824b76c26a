"""Delivery of messages: never lost, never sent twice without need, abandoned visibly."""

import asyncio
import contextlib
import json
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


async def test_message_goes_to_stored_address(mail: Mail, deliverer: Deliverer) -> None:
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


# Seconds that no test takes.
_LONG = 1e6


async def test_unreadable_outbox_is_logged_with_its_cause(deliverer: Deliverer, mail: Mail) -> None:
    await mail.database.close()
    deliverer._looked -= _LONG
    with capture_logs() as logs:
        work = asyncio.create_task(deliverer.run())
        async with asyncio.timeout(30):
            while not logs:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert logs[0]["event"] == "outbox_read_failed"
    assert logs[0]["cause"]
    assert deliverer.age() >= _LONG


async def test_age_begins_anew_with_each_look_for_messages(deliverer: Deliverer) -> None:
    deliverer._looked -= _LONG
    work = asyncio.create_task(deliverer.run())
    async with asyncio.timeout(30):
        while deliverer.age() >= _LONG:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_rolled_back_message_is_not_sent(mail: Mail, deliverer: Deliverer) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with mail.database.transaction() as connection:
            await mail.outbox.enqueue(connection, Message(MessageKind.EMAIL_CHANGED, ADDRESS, None))
            raise ZeroDivisionError
    await deliverer.deliver_due()
    assert (mail.channel.tried, await mail.rows()) == (0, [])


async def test_decoy_is_never_sent(mail: Mail, deliverer: Deliverer, clock: FakeClock) -> None:
    async with mail.database.transaction() as connection:
        for kind in MessageKind:
            await mail.outbox.enqueue_decoy(connection, kind)
    clock.advance(timedelta(days=2))
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert {row["state"] for row in await mail.rows()} == {"decoy"}


async def test_row_with_tampered_address_is_not_sent(mail: Mail, deliverer: Deliverer) -> None:
    """Write access to the table can't redirect a code: each row is sealed for itself."""
    await mail.write_code()
    await mail.write()
    await mail.rows(
        "UPDATE outbox SET sealed_content = (SELECT sealed_content FROM outbox other "
        "WHERE other.message_id <> outbox.message_id)"
    )
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert await mail.states() == [("pending", "unreadable")] * 2


async def test_failed_delivery_is_retried_with_growing_delay(mail: Mail, clock: FakeClock) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered(error="connection")

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
async def test_requested_retry_delay_is_bounded(
    mail: Mail, clock: FakeClock, asked: float, given: float
) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered(error="busy", retry_after=asked)

    mail.channel.before = fail
    await mail.write()
    await mail.deliverer(first_retry="1s", longest_retry="60s").deliver_due()
    (row,) = await mail.rows()
    assert row["next_time"] - clock.now() == timedelta(seconds=given)


async def test_permanent_failure_is_abandoned_at_once_and_recorded(mail: Mail) -> None:
    async def refuse(_: RenderedMessage) -> None:
        raise NotDelivered(error="recipient_refused", reply="550 No such user", permanent=True)

    mail.channel.before = refuse
    await mail.write_code()
    deliverer = mail.deliverer()
    with capture_logs() as logs:
        await deliverer.deliver_due()
    assert await mail.states() == [("abandoned", "recipient_refused: 550 No such user")]
    (event,) = await mail.rows("SELECT type, detail FROM audit_events")
    assert event["type"] == "message.abandon"
    # What a server says is not kept for good.
    assert json.loads(event["detail"])["error"] == "recipient_refused"
    written = f"{event['detail']} {logs}"
    assert "recipient_refused" in written
    assert "login_code" in written
    assert not any(secret in written for secret in (ADDRESS, CODE))


async def test_message_is_abandoned_with_cause_after_max_age(
    mail: Mail, clock: FakeClock, deliverer: Deliverer
) -> None:
    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered(error="connection")

    mail.channel.before = fail
    await mail.write()
    await deliverer.deliver_due()
    clock.advance(timedelta(hours=24))
    await deliverer.deliver_due()
    assert await mail.states() == [("abandoned", "connection")]
    assert mail.channel.tried == 1


async def test_expired_code_is_not_sent(mail: Mail, clock: FakeClock, deliverer: Deliverer) -> None:
    await mail.write_code(timedelta(minutes=10))
    clock.advance(timedelta(minutes=10))
    await deliverer.deliver_due()
    assert mail.channel.tried == 0
    assert await mail.states() == [("abandoned", "expired")]


async def test_messages_without_channel_wait_until_expiry(mail: Mail, clock: FakeClock) -> None:
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


async def test_pending_and_abandoned_messages_are_counted(mail: Mail) -> None:
    async def refuse(_: RenderedMessage) -> None:
        raise NotDelivered(error="recipient_refused", permanent=True)

    await mail.write()
    await mail.deliverer(TestChannel(before=refuse)).deliver_due()
    for _ in range(3):
        await mail.write()
    deliverer = mail.deliverer(no_channel=True)
    await deliverer._update_counts()
    assert (deliverer.pending, deliverer.abandoned) == (3, 1)
