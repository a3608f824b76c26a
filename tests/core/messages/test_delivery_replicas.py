"""Replicas that share the delivery: each message once, even if one hangs, stops or is killed."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.core.messages.delivery import Deliverer, NotDelivered
from authsvc.core.messages.templates import RenderedMessage
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.store.doorbell import Channel
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import opened, settings_for, until
from tests.support.delivering import Mail, TestChannel, forever
from tests.support.jobs import running

pytestmark = pytest.mark.slow

_LEASE = timedelta(seconds=41)
_PATIENCE = 30


@pytest.fixture
def mail(database: Database, clock: FakeClock) -> Mail:
    return Mail(database, clock)


async def test_two_replicas_send_each_message_once(
    mail: Mail, database_dsn: str, clock: FakeClock
) -> None:
    async with opened(database_dsn) as other:
        channels = TestChannel(), TestChannel()
        replicas = [
            mail.deliverer(channels[0]),
            Mail(other, clock).deliverer(channels[1]),
        ]

        both = asyncio.Event()

        async def wait_for_the_other(_: RenderedMessage) -> None:
            if all(channel.tried for channel in channels):
                both.set()
            await both.wait()

        for channel in channels:
            channel.before = wait_for_the_other
        for _ in range(100):
            await mail.write()
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(replica.deliver_due() for replica in replicas))
    ids = [rendered.message_id for channel in channels for rendered in channel.sent]
    assert (len(ids), len(set(ids))) == (100, 100)
    assert all(channel.sent for channel in channels)
    assert await mail.states() == [("sent", "")] * 100


async def test_hundred_replicas_send_a_message_once(mail: Mail) -> None:
    await mail.write()
    replicas = [mail.deliverer() for _ in range(100)]
    await asyncio.gather(*(replica.deliver_due() for replica in replicas))
    assert mail.channel.tried == 1


async def test_crash_before_marking_sent_makes_another_replica_resend(
    mail: Mail, clock: FakeClock
) -> None:
    await mail.write_code()
    handed_over = asyncio.Event()

    class DyingChannel(TestChannel):
        async def send(self, rendered: RenderedMessage) -> None:
            await super().send(rendered)
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


@pytest.mark.parametrize("permanent", [False, True])
async def test_late_failure_does_not_undo_work_of_another_replica(
    mail: Mail, clock: FakeClock, permanent: bool
) -> None:
    """An attempt that outlives its lease, as after a long pause of its machine, changes nothing."""
    await mail.write()
    go_on = asyncio.Event()
    is_stuck = asyncio.Event()

    async def stick_then_fail(_: RenderedMessage) -> None:
        is_stuck.set()
        await go_on.wait()
        raise NotDelivered(error="connection", permanent=permanent)

    stuck = mail.deliverer(TestChannel(before=stick_then_fail))
    late = asyncio.create_task(stuck.deliver_due())
    await is_stuck.wait()
    clock.advance(_LEASE)

    async def fail(_: RenderedMessage) -> None:
        raise NotDelivered(error="timeout")

    await mail.deliverer(TestChannel(before=fail)).deliver_due()
    go_on.set()
    await late
    assert await mail.states() == [("pending", "timeout")]


async def test_hanging_delivery_does_not_block_others(mail: Mail) -> None:
    await mail.write()
    (hanging,) = await mail.rows()

    async def hang(rendered: RenderedMessage) -> None:
        if rendered.message_id == hanging["message_id"]:
            await forever(rendered)

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


async def test_concurrent_deliveries_are_limited(mail: Mail) -> None:
    under_way, most = 0, 0

    async def count(_: RenderedMessage) -> None:
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


async def test_notification_wakes_waiting_deliverer(
    mail: Mail, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that only a notification can have woken it.
    monkeypatch.setattr("authsvc.core.messages.delivery._POLL_SECONDS", 10 * _PATIENCE)
    sent = asyncio.Event()

    async def tell(_: RenderedMessage) -> None:
        sent.set()

    mail.channel.before = tell
    deliverer = mail.deliverer()
    # The message is written by another process than the one that delivers it.
    ringing = Doorbell(mail.database, settings_for(database_dsn))
    async with opened(database_dsn) as database:
        bell = Doorbell(database, settings_for(database_dsn))
        bell.answer(Channel.OUTBOX, deliverer.wake)

        async def looked() -> bool:
            return bell.is_listening and not deliverer._wake.is_set()

        async with running(bell), asyncio.timeout(_PATIENCE):
            run = asyncio.create_task(deliverer.run())
            await until(looked)
            await mail.write()
            await sent.wait()
        await _end(deliverer, run)
    await ringing.close()


async def test_stop_waits_for_deliveries_in_progress(mail: Mail) -> None:
    await mail.write()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: RenderedMessage) -> None:
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


async def test_stop_does_not_wait_for_hanging_delivery(mail: Mail, clock: FakeClock) -> None:
    await mail.write()
    hangs = asyncio.Event()

    async def hang(rendered: RenderedMessage) -> None:
        hangs.set()
        await forever(rendered)

    deliverer = mail.deliverer(TestChannel(before=hang))
    run = asyncio.create_task(deliverer.run())
    await hangs.wait()
    async with asyncio.timeout(_PATIENCE):
        await deliverer.stop(timedelta(milliseconds=1))
        await run
    clock.advance(_LEASE)
    await mail.deliverer().deliver_due()
    assert await mail.states() == [("sent", "")]


async def _end(deliverer: Deliverer, run: asyncio.Task[None]) -> None:
    await deliverer.stop(timedelta())
    await run
