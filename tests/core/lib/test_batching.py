"""Batching: what forms a batch, the hold, and how failures and cancellations spread."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from time import perf_counter

import pytest

from authsvc.core.lib.batching import Batcher
from authsvc.errors import Overloaded

_who: ContextVar[str] = ContextVar("_who", default="nobody")


class Worker:
    """Doubles numbers, one batch each time the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = asyncio.Semaphore(0)
        self.may_finish = asyncio.Semaphore(0)
        self.seen: list[str] = []

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.seen.append(_who.get())
        self.started.release()
        await self.may_finish.acquire()
        if 666 in items:
            raise ConnectionError("the whole batch fails")
        return [ValueError(item) if item < 0 else 2 * item for item in items]


@pytest.fixture
async def worker() -> Worker:
    return Worker()


def _submit(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def _begin(worker: Worker, batcher: Batcher[int, int]) -> asyncio.Task[int]:
    """Put a batch of one in flight."""
    (first,) = _submit(batcher, 0)
    await worker.started.acquire()
    return first


async def test_items_arriving_during_batch_form_the_next(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    first = await _begin(worker, batcher)
    others = _submit(batcher, 3, 1, 2)
    await asyncio.sleep(0)
    worker.may_finish.release()
    assert await first == 0
    worker.may_finish.release()
    assert await asyncio.gather(*others) == [6, 2, 4]
    assert worker.batches == [[0], [3, 1, 2]]


async def _work() -> None:
    """Block the event loop for some time in one of its iterations."""
    until = perf_counter() + 0.0002
    while perf_counter() < until:
        pass
    await asyncio.sleep(0)


async def test_batch_is_held_while_event_loop_is_busy(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_hold=60)
    for _ in range(3):
        worker.may_finish.release()

    async def submit_after_work(item: int) -> int:
        for _ in range(3):
            await _work()
        return await batcher.submit(item)

    others = [asyncio.create_task(submit_after_work(item)) for item in (1, 2)]
    assert await asyncio.gather(batcher.submit(0), *others) == [0, 2, 4]
    assert worker.batches == [[0, 1, 2]]


async def test_hold_time_is_bounded_on_busy_event_loop(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_hold=0.001)
    worker.may_finish.release()

    async def stay_busy() -> None:
        while True:
            await _work()

    other = asyncio.create_task(stay_busy())
    async with asyncio.timeout(30):
        assert await batcher.submit(1) == 2
    other.cancel()


async def test_batch_size_is_limited(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_batch=2)
    first = await _begin(worker, batcher)
    others = _submit(batcher, 1, 2, 3)
    for _ in range(3):
        worker.may_finish.release()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6]
    assert worker.batches == [[0], [1, 2], [3]]


async def test_cancelled_waiter_does_not_affect_others(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    first = await _begin(worker, batcher)
    one, two, three = _submit(batcher, 1, 2, 3)
    await asyncio.sleep(0)
    # One in flight, one waiting.
    first.cancel()
    two.cancel()
    worker.may_finish.release()
    worker.may_finish.release()
    assert [await one, await three] == [2, 6]
    assert first.cancelled()
    assert two.cancelled()
    assert worker.batches == [[0], [1, 3]]


async def test_single_item_can_fail(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    worker.may_finish.release()
    good, bad = await asyncio.gather(*_submit(batcher, 4, -4), return_exceptions=True)
    assert good == 8
    assert isinstance(bad, ValueError)
    assert worker.batches == [[4, -4]]


async def test_failing_batch_fails_only_its_own_items(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    failing = _submit(batcher, 1, 666)
    await worker.started.acquire()
    others = _submit(batcher, 5)
    worker.may_finish.release()
    for outcome in await asyncio.gather(*failing, return_exceptions=True):
        assert isinstance(outcome, ConnectionError)
    worker.may_finish.release()
    assert await asyncio.gather(*others) == [10]


async def test_missing_result_fails_its_callers_instead_of_hanging() -> None:
    async def forgetful(items: list[int]) -> Sequence[int | Exception]:
        return items[1:]

    batcher = Batcher(run=forgetful)
    outcomes = await asyncio.gather(*_submit(batcher, 1, 2), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError]


async def test_full_queue_rejects_new_items(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_waiting=2)
    first = await _begin(worker, batcher)
    others = _submit(batcher, 1, 2)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit(3)
    worker.may_finish.release()
    worker.may_finish.release()
    assert await asyncio.gather(first, *others) == [0, 2, 4]


async def test_cancelled_batch_cancels_its_waiters(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    first = await _begin(worker, batcher)
    (second,) = _submit(batcher, 1)
    await asyncio.sleep(0)
    assert batcher._task is not None
    batcher._task.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.cancelled()
    # A new one starts afresh.
    worker.may_finish.release()
    assert await batcher.submit(2) == 4


async def test_batch_does_not_inherit_context_of_caller(worker: Worker) -> None:
    batcher = Batcher(run=worker)
    _who.set("somebody")
    worker.may_finish.release()
    await batcher.submit(1)
    assert worker.seen == ["nobody"]


async def test_many_items_wait_batch_by_batch(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_batch=2, max_waiting=2)
    for _ in range(3):
        worker.may_finish.release()
    assert await batcher.submit_many([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert worker.batches == [[1, 2], [3, 4], [5]]
    assert await batcher.submit_many([]) == []


async def test_many_items_need_room_for_a_batch(worker: Worker) -> None:
    batcher = Batcher(run=worker, max_batch=2, max_waiting=2)
    first = await _begin(worker, batcher)
    (waiting,) = _submit(batcher, 1)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit_many([2, 3])
    worker.may_finish.release()
    worker.may_finish.release()
    assert list(await asyncio.gather(first, waiting)) == [0, 2]
