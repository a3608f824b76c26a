import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from time import perf_counter

import pytest

from authsvc.core.lib.batching import Batcher
from authsvc.errors import Overloaded

_who: ContextVar[str] = ContextVar("_who", default="nobody")


class Worker:
    """Doubles numbers, one batch whenever the test lets it."""

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


def _submit(coalescer: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(coalescer.submit(item)) for item in items]


async def _begin(worker: Worker, coalescer: Batcher[int, int]) -> asyncio.Task[int]:
    """Put a batch of one in flight."""
    (first,) = _submit(coalescer, 0)
    await worker.started.acquire()
    return first


async def test_what_arrives_while_a_batch_is_in_flight_forms_the_next(worker: Worker) -> None:
    coalescer = Batcher(worker)
    first = await _begin(worker, coalescer)
    others = _submit(coalescer, 3, 1, 2)
    await asyncio.sleep(0)
    worker.may_finish.release()
    assert await first == 0
    worker.may_finish.release()
    assert await asyncio.gather(*others) == [6, 2, 4]
    assert worker.batches == [[0], [3, 1, 2]]


async def _work() -> None:
    """Take a turn of the event loop of some length."""
    until = perf_counter() + 0.0002
    while perf_counter() < until:
        pass
    await asyncio.sleep(0)


async def test_while_the_loop_is_busy_a_batch_waits_for_what_is_under_way(worker: Worker) -> None:
    coalescer = Batcher(worker, max_hold=60)
    for _ in range(3):
        worker.may_finish.release()

    async def submit_after_work(item: int) -> int:
        for _ in range(3):
            await _work()
        return await coalescer.submit(item)

    others = [asyncio.create_task(submit_after_work(item)) for item in (1, 2)]
    assert await asyncio.gather(coalescer.submit(0), *others) == [0, 2, 4]
    assert worker.batches == [[0, 1, 2]]


async def test_a_loop_that_stays_busy_holds_no_batch_for_long(worker: Worker) -> None:
    coalescer = Batcher(worker, max_hold=0.001)
    worker.may_finish.release()

    async def stay_busy() -> None:
        while True:
            await _work()

    other = asyncio.create_task(stay_busy())
    async with asyncio.timeout(30):
        assert await coalescer.submit(1) == 2
    other.cancel()


async def test_a_batch_has_a_limit(worker: Worker) -> None:
    coalescer = Batcher(worker, max_batch=2)
    first = await _begin(worker, coalescer)
    others = _submit(coalescer, 1, 2, 3)
    for _ in range(3):
        worker.may_finish.release()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6]
    assert worker.batches == [[0], [1, 2], [3]]


async def test_a_waiter_that_is_cancelled_leaves_the_others_alone(worker: Worker) -> None:
    coalescer = Batcher(worker)
    first = await _begin(worker, coalescer)
    one, two, three = _submit(coalescer, 1, 2, 3)
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


async def test_an_item_may_fail_alone(worker: Worker) -> None:
    coalescer = Batcher(worker)
    worker.may_finish.release()
    good, bad = await asyncio.gather(*_submit(coalescer, 4, -4), return_exceptions=True)
    assert good == 8
    assert isinstance(bad, ValueError)
    assert worker.batches == [[4, -4]]


async def test_a_failing_batch_fails_for_each_of_its_items_and_for_no_other(worker: Worker) -> None:
    coalescer = Batcher(worker)
    failing = _submit(coalescer, 1, 666)
    await worker.started.acquire()
    others = _submit(coalescer, 5)
    worker.may_finish.release()
    for outcome in await asyncio.gather(*failing, return_exceptions=True):
        assert isinstance(outcome, ConnectionError)
    worker.may_finish.release()
    assert await asyncio.gather(*others) == [10]


async def test_a_run_that_forgets_a_result_fails_instead_of_leaving_its_callers_waiting() -> None:
    async def forgetful(items: list[int]) -> Sequence[int | Exception]:
        return items[1:]

    coalescer = Batcher(forgetful)
    outcomes = await asyncio.gather(*_submit(coalescer, 1, 2), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError]


async def test_too_many_waiting_are_refused(worker: Worker) -> None:
    coalescer = Batcher(worker, max_waiting=2)
    first = await _begin(worker, coalescer)
    others = _submit(coalescer, 1, 2)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await coalescer.submit(3)
    worker.may_finish.release()
    worker.may_finish.release()
    assert await asyncio.gather(first, *others) == [0, 2, 4]


async def test_cancelled_work_cancels_those_who_wait_for_it(worker: Worker) -> None:
    coalescer = Batcher(worker)
    first = await _begin(worker, coalescer)
    (second,) = _submit(coalescer, 1)
    await asyncio.sleep(0)
    assert coalescer._task is not None
    coalescer._task.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.cancelled()
    # A new one starts anew.
    worker.may_finish.release()
    assert await coalescer.submit(2) == 4


async def test_a_batch_sees_nothing_of_the_caller_that_started_it(worker: Worker) -> None:
    coalescer = Batcher(worker)
    _who.set("somebody")
    worker.may_finish.release()
    await coalescer.submit(1)
    assert worker.seen == ["nobody"]
