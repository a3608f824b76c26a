"""Owns batching: items that arrive while one statement is in flight share the next one.

A statement costs the process as much as several calls do. So while the event loop has other work
ready, a batch waits for it, as that work may submit items for the same batch. On an idle loop no
item waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import perf_counter
from typing import Generic, TypeVar

from authsvc.conventions import BATCH
from authsvc.errors import Overloaded, Resource
from authsvc.tracing import SPAN, span

# Seconds: an iteration of the event loop that takes less ran nothing else.
_BUSY_TURN = 50e-6

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time, without waiting for a batch to fill.

    While the event loop is busy, a batch is held back for up to `max_hold` seconds plus one
    iteration of the loop.

    `run` gets 1 to `max_batch` items in order of arrival and returns, in the same order, a result
    or an exception to raise for each; an exception that it raises itself is raised for all of them.
    It runs in its own context, so that no caller's context variables leak into work for others.
    """

    def __init__(
        self,
        *,
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
        """Return the item's result; raise Overloaded if `max_waiting` items are already waiting.

        Cancelling a caller does not affect the others in its batch.
        """
        self._require_room(1)
        if SPAN.get() is None:
            return await self._enqueue(item)
        # The statement itself is nobody's in particular.
        with span(BATCH):
            return await self._enqueue(item)

    async def submit_many(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of several items, in order, waiting for one batch of them at a time.

        It costs less than a task for each, and doesn't keep the event loop.
        """
        results: list[Result] = []
        for start in range(0, len(items), self._max_batch):
            part = items[start : start + self._max_batch]
            self._require_room(len(part))
            results += await asyncio.gather(*map(self._enqueue, part))
        return results

    def _require_room(self, count: int) -> None:
        if len(self._waiting) + count > self._max_waiting:
            raise Overloaded(what=Resource.BATCHES)

    def _enqueue(self, item: Item) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = loop.create_task(self._drain(), context=Context())
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._hold()
                if batch := self._next_batch():
                    await self._settle(batch)
        finally:
            self._task = None
            # Items are left only if this task was cancelled.
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
        except Exception as error:  # noqa: BLE001 - passed on to the callers, who handle it
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
