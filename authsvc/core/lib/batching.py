"""Owns the sharing of statements: what arrives while one is in flight rides in the next.

A statement costs its process as much as several calls do. So while the event loop has other work
that is ready, a batch waits for it: that work may be items for this very batch. An idle loop has
none, and no item waits there.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import perf_counter
from typing import Generic, TypeVar

from authsvc.errors import Overloaded

# Seconds that a turn of the event loop takes at least in which anything else ran.
_BUSY_TURN = 50e-6

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time, without waiting for a batch to fill.

    While the event loop is busy, a batch is held back, up to `max_hold` seconds and a turn.

    `run` gets 1 to `max_batch` items in the order in which they came and returns a result, or the
    exception to raise, for each in the same order; what it raises itself is raised for all of them.
    It runs in a context of its own, so nothing of one caller's shows in the work for another.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        max_batch: int = 500,
        max_waiting: int = 10_000,
        max_hold: float = 0.002,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_hold = max_hold
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Return the item's result; raises Overloaded when `max_waiting` items wait already.

        A caller that is cancelled leaves the others of its batch alone.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = loop.create_task(self._drain(), context=Context())
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._hold()
                if batch := self._next_batch():
                    await self._settle(batch)
        finally:
            self._task = None
            # Only left over when this task was cancelled.
            while self._waiting:
                self._waiting.popleft()[1].cancel()

    async def _hold(self) -> None:
        now = perf_counter()
        until = now + self._max_hold
        while now < until:
            turn = now
            await asyncio.sleep(0)
            now = perf_counter()
            if now - turn < _BUSY_TURN:
                return

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            outcomes = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to handle
            outcomes = [(entry, error) for entry in batch]
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
