"""Owns batching: what is asked while a call is in progress shares the next one.

Nothing waits for a batch to fill. A batch that the service refuses as a whole, because of one item
in it, is split until that item fails alone.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from copy import copy
from time import monotonic
from typing import Generic, TypeVar

from authsvc.client.calling import CallSettings
from authsvc.client.errors import AuthsvcError, FieldInvalid, PolicyUnknown, ServiceTimeout

# As BatchValidateTokens and BatchCheckRateLimits allow.
_MAX_ITEMS = 1_000
# A call that takes longer than this, in seconds, no longer keeps the next one back.
_PATIENCE = 0.1
_MAX_CALLS = 4
# For these, the service refuses a whole batch, and nothing of it has taken effect.
_OF_ONE_ITEM = (FieldInvalid, PolicyUnknown)

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Request(Generic[Item, Result]):
    """An item that waits, and its outcome."""

    __slots__ = ("item", "outcome", "weight")
    outcome: Result | Exception | None

    def __init__(self, item: Item, weight: int) -> None:
        self.item = item
        self.weight = weight
        self.outcome = None

    def settle(self, outcome: Result | Exception) -> None:
        """Set the outcome; whoever waits for the same error gets its own."""
        self.outcome = copy(outcome) if isinstance(outcome, Exception) else outcome

    def result(self) -> Result:
        """Return the result, or raise the error."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None  # noqa: S101 - only asked when settled
        return self.outcome


def _take(waiting: "deque[_Waits]", max_weight: int) -> "list[_Waits]":
    """Take as many of those that wait as one call may carry."""
    batch: list[_Waits] = []
    weight = 0
    while waiting and len(batch) < _MAX_ITEMS:
        weight += waiting[0].weight
        if batch and weight > max_weight:
            break
        batch.append(waiting.popleft())
    return batch


class _TaskRequest(_Request[Item, Result]):
    """A request of a task."""

    __slots__ = ("settled",)

    def __init__(self, item: Item, weight: int) -> None:
        super().__init__(item, weight)
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Result | Exception) -> None:
        super().settle(outcome)
        if not self.settled.done():
            self.settled.set_result(None)


class _ThreadRequest(_Request[Item, Result]):
    """A request of a thread."""

    __slots__ = ("settled",)

    def __init__(self, item: Item, weight: int) -> None:
        super().__init__(item, weight)
        self.settled = threading.Event()

    def settle(self, outcome: Result | Exception) -> None:
        super().settle(outcome)
        self.settled.set()


_Waits = TypeVar("_Waits", bound=_Request)  # type: ignore[type-arg]  # of any item


class AioBatcher(Generic[Item, Result]):
    """Sends items in batches for the tasks of an event loop.

    Args:
        send: Calls the service with some items; returns their results in the same order.
        settings: How long an item may take.
        max_weight: How much all items of a call may weigh.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        settings: CallSettings,
        max_weight: int,
    ) -> None:
        self._send = send
        self._settings = settings
        self._max_weight = max_weight
        self._waiting: deque[_TaskRequest[Item, Result]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._departures: asyncio.Task[None] | None = None

    async def submit(self, item: Item, weight: int = 1) -> Result:
        """Return the item's result. Cancelling the task that waits does no harm to others.

        Raises:
            AuthsvcError: The item is invalid, or the call that carried it failed.
        """
        seconds = self._settings.deadline(self._settings.timeout) - monotonic()
        request = _TaskRequest[Item, Result](item, weight)
        self._waiting.append(request)
        if self._departures is None:
            # Without context: the call is for everybody, not for the first one's request.
            self._departures = asyncio.create_task(self._depart(), context=Context())
        try:
            async with asyncio.timeout(seconds):
                await request.settled
        except TimeoutError:
            raise ServiceTimeout("The answer did not come in time.") from None
        return request.result()

    async def _depart(self) -> None:
        try:
            while self._waiting:
                batch = _take(self._waiting, self._max_weight)
                # Those who were cancelled, or whose time is over, don't wait any more.
                if batch := [each for each in batch if not each.settled.done()]:
                    call = asyncio.create_task(self._carry(batch))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                    await asyncio.wait([call], timeout=_PATIENCE)
                while len(self._calls) >= _MAX_CALLS:
                    await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._departures = None

    async def _carry(self, batch: list[_TaskRequest[Item, Result]]) -> None:
        try:
            results = await self._results([each.item for each in batch])
        except Exception as error:  # noqa: BLE001 - raised for those who wait
            results = [error] * len(batch)
        for each, result in zip(batch, results, strict=True):
            each.settle(result)

    async def _results(self, items: list[Item]) -> Sequence[Result | Exception]:
        try:
            return await self._send(items)
        except AuthsvcError as error:
            if len(items) == 1 or not isinstance(error, _OF_ONE_ITEM):
                return [error] * len(items)
        middle = len(items) // 2
        return [*await self._results(items[:middle]), *await self._results(items[middle:])]


class SyncBatcher(Generic[Item, Result]):
    """Sends items in batches for threads: the twin of AioBatcher.

    Its calls are made by a few threads of its own, so that nobody waits past a deadline for a call
    that goes on for others.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Sequence[Result]],
        settings: CallSettings,
        max_weight: int,
    ) -> None:
        self._send = send
        self._settings = settings
        self._max_weight = max_weight
        self._lock = threading.Lock()
        self._waiting: deque[_ThreadRequest[Item, Result]] = deque()
        self._callers = ThreadPoolExecutor(_MAX_CALLS, "authsvc-batches")
        self._calling = 0
        self._departed = 0.0

    def submit(self, item: Item, weight: int = 1) -> Result:
        """Return the item's result.

        Raises:
            AuthsvcError: The item is invalid, or the call that carried it failed.
        """
        deadline = self._settings.deadline(self._settings.timeout)
        request = _ThreadRequest[Item, Result](item, weight)
        with self._lock:
            self._waiting.append(request)
            self._depart()
        while not request.settled.wait(min(_PATIENCE, max(0.0, deadline - monotonic()))):
            with self._lock:
                if monotonic() >= deadline:
                    if request in self._waiting:
                        self._waiting.remove(request)
                    raise ServiceTimeout("The answer did not come in time.")
                self._depart()
        return request.result()

    def _depart(self) -> None:
        """Have a call made, unless one is in progress that isn't slow; the lock is held."""
        is_slow = monotonic() - self._departed > _PATIENCE
        if self._waiting and (not self._calling or (is_slow and self._calling < _MAX_CALLS)):
            self._calling += 1
            self._departed = monotonic()
            self._callers.submit(self._call)

    def _call(self) -> None:
        while True:
            with self._lock:
                batch = _take(self._waiting, self._max_weight)
                if not batch:
                    self._calling -= 1
                    return
                self._departed = monotonic()
            self._carry(batch)

    def _carry(self, batch: list[_ThreadRequest[Item, Result]]) -> None:
        try:
            results = self._results([each.item for each in batch])
        except Exception as error:  # noqa: BLE001 - raised for those who wait
            results = [error] * len(batch)
        for each, result in zip(batch, results, strict=True):
            each.settle(result)

    def _results(self, items: list[Item]) -> Sequence[Result | Exception]:
        try:
            return self._send(items)
        except AuthsvcError as error:
            if len(items) == 1 or not isinstance(error, _OF_ONE_ITEM):
                return [error] * len(items)
        middle = len(items) // 2
        return [*self._results(items[:middle]), *self._results(items[middle:])]
