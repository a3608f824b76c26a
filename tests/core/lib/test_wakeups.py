"""Wake-ups: everybody is woken, in order, and others get their turns in between."""

import asyncio

from authsvc.core.lib import wakeups
from authsvc.core.lib.wakeups import Wakeups


async def test_all_are_woken_in_order_and_others_in_between() -> None:
    waking = Wakeups()
    order: list[int] = []
    turns = 0

    async def wait(number: int) -> None:
        await waking.wait()
        order.append(number)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    count = 10 * wakeups._EACH_TURN
    waiting = [asyncio.create_task(wait(number)) for number in range(count)]
    await asyncio.sleep(0)
    other = asyncio.create_task(take_turns())
    waking.wake()
    waking.wake()
    await asyncio.gather(*waiting)
    other.cancel()
    assert order == list(range(count))
    assert turns >= 8


async def test_cancelled_waiter_and_those_who_come_later_are_passed_over() -> None:
    waking = Wakeups()
    first, second = (asyncio.create_task(waking.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    waking.wake()
    later = asyncio.create_task(waking.wait())
    await second
    for _ in range(3):
        await asyncio.sleep(0)
    assert not later.done()
    waking.wake()
    await later
