"""The delivery of messages: never lost, never twice without need, given up in the open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from authsvc.core.delivery import CHANNEL, Deliverer, NotDelivered
from authsvc.core.message_texts import Letter
from authsvc.core.outbox import Message, MessageKind
from authsvc.core.revocations import RevocationListener
from authsvc.store.database import Database
from tests.clock import FakeClock
from tests.databases import opened, settings_for, until
from tests.delivering import ADDRESS, CODE, Mail, TestChannel, forever

_LEASE = timedelta(seconds=41)
_PATIENCE = 30


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
    (letter,) = mail.channel.sent
    (row,) = await mail.rows()
    assert letter.message_id == row["message_id"]
    assert (letter.message.address, letter.message.code) == (ADDRESS, CODE)
    assert letter.content.text == f"{CODE}|"
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


async def test_each_of_many_is_sent_once_by_two_replicas(
    mail: Mail, database_dsn: str, clock: FakeClock
) -> None:
    async with opened(database_dsn) as other:
        channels = TestChannel(), TestChannel()
        replicas = [
            mail.deliverer(channels[0]),
            Mail(other, clock).deliverer(channels[1]),
        ]

        async def others_turn(_: Letter) -> None:
            await asyncio.sleep(0)

        for channel in channels:
            channel.before = others_turn
        for _ in range(100):
            await mail.write()
        await asyncio.gather(*(replica.deliver_due() for replica in replicas))
    ids = [letter.message_id for channel in channels for letter in channel.sent]
    assert (len(ids), len(set(ids))) == (100, 100)
    assert all(channel.sent for channel in channels)
    assert await mail.states() == [("sent", "")] * 100


async def test_one_of_a_hundred_gets_a_message(mail: Mail) -> None:
    await mail.write()
    replicas = [mail.deliverer() for _ in range(100)]
    await asyncio.gather(*(replica.deliver_due() for replica in replicas))
    assert mail.channel.tried == 1


async def test_killed_between_sending_and_marking_it_is_sent_again_by_another(
    mail: Mail, clock: FakeClock
) -> None:
    await mail.write_code()
    handed_over = asyncio.Event()

    class DyingChannel(TestChannel):
        async def send(self, letter: Letter) -> None:
            await super().send(letter)
            handed_over.set()
            await asyncio.Event().wait()

    dying = DyingChannel()
    killed = mail.deliverer(dying)
    run = asyncio.create_task(killed.run())
    await handed_over.wait()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await killed.stop(timedelta())

    survivor = mail.deliverer()
    await survivor.deliver_due()
    assert mail.channel.tried == 0, "the lease of the one that died has not ended"
    clock.advance(_LEASE)
    await survivor.deliver_due()
    (first,), (second,) = dying.sent, mail.channel.sent
    assert first.message_id == second.message_id
    assert await mail.states() == [("sent", "")]


async def test_a_failure_is_tried_again_ever_later(mail: Mail, clock: FakeClock) -> None:
    async def fail(_: Letter) -> None:
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
    async def fail(_: Letter) -> None:
        raise NotDelivered("busy", retry_after=asked)

    mail.channel.before = fail
    await mail.write()
    await mail.deliverer(first_retry="1s", longest_retry="60s").deliver_due()
    (row,) = await mail.rows()
    assert row["next_time"] - clock.now() == timedelta(seconds=given)


async def test_what_can_never_succeed_is_given_up_at_once_and_told(mail: Mail) -> None:
    async def refuse(_: Letter) -> None:
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
    async def fail(_: Letter) -> None:
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


@pytest.mark.parametrize("permanent", [False, True])
async def test_a_late_failure_does_not_undo_the_work_of_another(
    mail: Mail, clock: FakeClock, permanent: bool
) -> None:
    """Whoever outlives its lease, as after a long pause of its machine, changes nothing."""
    await mail.write()
    go_on = asyncio.Event()
    is_stuck = asyncio.Event()

    async def stick_then_fail(_: Letter) -> None:
        is_stuck.set()
        await go_on.wait()
        raise NotDelivered("connection", permanent=permanent)

    stuck = mail.deliverer(TestChannel(before=stick_then_fail))
    late = asyncio.create_task(stuck.deliver_due())
    await is_stuck.wait()
    clock.advance(_LEASE)

    async def fail(_: Letter) -> None:
        raise NotDelivered("timeout")

    await mail.deliverer(TestChannel(before=fail)).deliver_due()
    go_on.set()
    await late
    assert await mail.states() == [("pending", "timeout")]


async def test_one_that_hangs_holds_up_no_other(mail: Mail) -> None:
    await mail.write()
    (hanging,) = await mail.rows()

    async def hang(letter: Letter) -> None:
        if letter.message_id == hanging["message_id"]:
            await forever(letter)

    mail.channel.before = hang
    deliverer = mail.deliverer(parallel=2)
    run = asyncio.create_task(deliverer.run())
    for _ in range(20):
        await mail.write()
    deliverer.wake()

    async def the_rest_is_sent() -> bool:
        return sorted(await mail.states()) == [("pending", "")] + [("sent", "")] * 20

    await until(the_rest_is_sent)
    await _end(deliverer, run)


async def test_no_more_than_allowed_are_under_way(mail: Mail) -> None:
    under_way, most = 0, 0

    async def count(_: Letter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    mail.channel.before = count
    for _ in range(20):
        await mail.write()
    await mail.deliverer(parallel=3).deliver_due()
    assert (len(mail.channel.sent), most) == (20, 3)


async def test_a_notification_wakes_the_one_that_waits(
    mail: Mail, database_dsn: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that only a notification can explain it.
    monkeypatch.setattr("authsvc.core.delivery._POLL_SECONDS", 10 * _PATIENCE)
    sent = asyncio.Event()

    async def tell(_: Letter) -> None:
        sent.set()

    mail.channel.before = tell
    deliverer = mail.deliverer()
    heard = asyncio.Event()
    listener = RevocationListener(
        settings_for(database_dsn), timedelta(seconds=1), lambda _: None, heard.set
    )
    listener.also_hear(CHANNEL, deliverer.wake)

    async def looked() -> bool:
        return not deliverer._wake.is_set()

    listening, run = asyncio.create_task(listener.run()), asyncio.create_task(deliverer.run())
    async with asyncio.timeout(_PATIENCE):
        await heard.wait()
        await until(looked)
        await mail.write()
        await sent.wait()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await _end(deliverer, run)


async def test_stopping_waits_for_what_is_under_way(mail: Mail) -> None:
    await mail.write()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Letter) -> None:
        begun.set()
        await go_on.wait()

    mail.channel.before = wait
    deliverer = mail.deliverer()
    run = asyncio.create_task(deliverer.run())
    await begun.wait()
    stop = asyncio.create_task(deliverer.stop(timedelta(seconds=_PATIENCE)))
    await asyncio.sleep(0)
    await mail.write()
    go_on.set()
    await stop
    await run
    assert sorted(await mail.states()) == [("pending", ""), ("sent", "")]
    assert mail.channel.closed


async def test_stopping_does_not_wait_for_one_that_hangs(mail: Mail, clock: FakeClock) -> None:
    await mail.write()
    hangs = asyncio.Event()

    async def hang(letter: Letter) -> None:
        hangs.set()
        await forever(letter)

    deliverer = mail.deliverer(TestChannel(before=hang))
    run = asyncio.create_task(deliverer.run())
    await hangs.wait()
    async with asyncio.timeout(_PATIENCE):
        await deliverer.stop(timedelta(milliseconds=1))
        await run
    clock.advance(_LEASE)
    await mail.deliverer().deliver_due()
    assert await mail.states() == [("sent", "")]


async def test_how_many_wait_and_were_given_up_is_counted(mail: Mail) -> None:
    async def refuse(_: Letter) -> None:
        raise NotDelivered("recipient_refused", permanent=True)

    await mail.write()
    await mail.deliverer(TestChannel(before=refuse)).deliver_due()
    for _ in range(3):
        await mail.write()
    deliverer = mail.deliverer(no_channel=True)
    await deliverer._count_sometimes()
    assert (deliverer.pending, deliverer.abandoned) == (3, 1)


async def _end(deliverer: Deliverer, run: asyncio.Task[None]) -> None:
    await deliverer.stop(timedelta())
    await run
