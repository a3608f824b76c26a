"""The turns of the event loop, counted, with a clock that only work advances."""

import asyncio
from collections import Counter

STEP = 0.0003
# Of 0.3 ms each: the fourth exceeds the millisecond. The clock is read after every fourth.
PER_TURN = 4


class Loop:
    """Counts the turns of the event loop, and what is done in each; has a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turn = 0
        self.done: Counter[int] = Counter()
        self._count()

    def work(self, item: int) -> int:
        self.now += STEP
        self.done[self.turn] += 1
        return -item

    def _count(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self._count)
