"""Owns the sharing of statements: what arrives while one is in flight rides in the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from authsvc.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Runs items in batches, one batch at a time, without waiting for a batch to fill.

    `run` gets 1 to `max_batch` items in the order in which they came and returns a result, or the
    exception to raise, for each in the same order; what it raises itself is raised for all of them.
    It runs in a context of its own, so nothing of one caller's shows in the work for another.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        max_batch: int = 500,
        max_waiting: int = 10_000,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
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
            while batch := self._next_batch():
                await self._settle(batch)
        finally:
            self._task = None
            # Only left over when this task was cancelled.
            while self._waiting:
                self._waiting.popleft()[1].cancel()

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
