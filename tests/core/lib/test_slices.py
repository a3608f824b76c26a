"""Long computations in slices: how much of them runs in one turn of the event loop."""

import asyncio

import pytest

from authsvc.core.lib.slices import Slices
from tests.support.turns import PER_TURN, Loop


async def test_results_are_in_order() -> None:
    loop = Loop()
    assert await Slices(lambda: loop.now).map(loop.work, range(100)) == [-n for n in range(100)]


async def test_one_computation_takes_a_slice_a_turn() -> None:
    loop = Loop()
    await Slices(lambda: loop.now).map(loop.work, range(100))
    assert max(loop.done.values()) == PER_TURN


async def test_many_computations_share_the_slice_of_a_turn() -> None:
    loop = Loop()
    slices = Slices(lambda: loop.now)
    results = await asyncio.gather(*(slices.map(loop.work, range(52)) for _ in range(20)))
    assert results == [[-n for n in range(52)]] * 20
    assert max(loop.done.values()) == PER_TURN


async def test_other_work_goes_on_beside_four_computations() -> None:
    """A call takes some turns of the loop; each may cost it one slice, and no more."""
    loop = Loop()
    slices = Slices(lambda: loop.now)
    batches = [asyncio.create_task(slices.map(loop.work, range(1_000))) for _ in range(4)]
    await asyncio.sleep(0)
    before = loop.turn, sum(loop.done.values())
    for _ in range(10):
        await asyncio.sleep(0)
    assert loop.turn - before[0] == 10
    assert sum(loop.done.values()) - before[1] <= 10 * PER_TURN
    assert not any(batch.done() for batch in batches)
    await asyncio.gather(*batches)


async def test_short_computation_overtakes_long_ones() -> None:
    loop = Loop()
    slices = Slices(lambda: loop.now)
    long = [asyncio.create_task(slices.map(loop.work, range(1_000))) for _ in range(4)]
    await asyncio.sleep(0)
    await slices.map(loop.work, range(3))
    assert not any(task.done() for task in long)
    assert sum(loop.done.values()) < 100
    await asyncio.gather(*long)


async def test_what_fits_does_not_wait() -> None:
    loop = Loop()
    work = Slices(lambda: loop.now).map(loop.work, range(3))
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    assert ended.value.value == [0, -1, -2]


async def test_failure_ends_only_its_own_computation() -> None:
    loop = Loop()
    slices = Slices(lambda: loop.now)

    def fail(item: int) -> int:
        return 1 // (10 - loop.work(-item))

    failed, fine = await asyncio.gather(
        slices.map(fail, range(100)), slices.map(loop.work, range(100)), return_exceptions=True
    )
    assert isinstance(failed, ZeroDivisionError)
    assert fine == [-n for n in range(100)]


async def test_cancelled_computations_leave_the_others_running() -> None:
    loop = Loop()
    slices = Slices(lambda: loop.now)
    tasks = [asyncio.create_task(slices.map(loop.work, range(50))) for _ in range(10)]
    for turn in range(9):
        await asyncio.sleep(0)
        tasks[turn].cancel()
    async with asyncio.timeout(30):
        assert await tasks[9] == [-n for n in range(50)]
        assert len(await slices.map(loop.work, range(50))) == 50
