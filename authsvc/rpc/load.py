"""Owns the calls in progress: their number, in all and per caller, and their time limit."""

import asyncio
from typing import Any

from authsvc.core.lib.time_limit import expire
from authsvc.errors import Overloaded

_SWEEP_SECONDS = 0.1
_EXPIRED = -1.0


class InFlight:
    """Limits the number of calls in progress, and cancels those that exceed their time limit.

    One timer checks all of them, as a timer for each call would cost several microseconds; so a
    call is cancelled up to a tenth of a second late.
    """

    def __init__(self, limit: int, limit_per_caller: int) -> None:
        self._limit = limit
        self._limit_per_caller = limit_per_caller
        self._expiries: dict[asyncio.Task[Any], float] = {}
        self._callers: dict[asyncio.Task[Any], str] = {}
        self._by_caller: dict[str, int] = {}
        self._unread = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._expiries)

    def enter(self, timeout: float) -> asyncio.Task[Any]:
        """Admit the current task for `timeout` seconds; return it, to be passed to `leave`.

        Raises:
            Overloaded: Too many calls are in progress, or have responses not read yet.
        """
        if len(self._expiries) + self._unread >= self._limit:
            raise Overloaded
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in a task
        loop = self._loop or asyncio.get_running_loop()
        self._expiries[task] = loop.time() + timeout
        if not self._sweeping:
            self._loop, self._sweeping = loop, True
            loop.call_later(_SWEEP_SECONDS, self._sweep)
        return task

    def attribute(self, task: asyncio.Task[Any], caller: str) -> None:
        """Count an admitted task as the caller's, for as long as it counts at all.

        Raises:
            Overloaded: The caller has too many calls; the other slots are for other callers.
        """
        count = self._by_caller.get(caller, 0)
        if count >= self._limit_per_caller:
            raise Overloaded
        self._by_caller[caller] = count + 1
        self._callers[task] = caller

    def leave(self, task: asyncio.Task[Any]) -> bool:
        """End a task's time limit; return whether the task was cancelled for exceeding it.

        The task still counts until it is done: gRPC ends it when the response fits the client's
        flow-control window, which a client may delay for as long as its connection lasts.
        """
        self._unread += 1
        task.add_done_callback(self._finished)
        return self._expire(task)

    def release(self, task: asyncio.Task[Any]) -> bool:
        """Do as `leave`, but stop counting the task immediately."""
        self._forget_caller(task)
        return self._expire(task)

    def _expire(self, task: asyncio.Task[Any]) -> bool:
        if self._expiries.pop(task) == _EXPIRED:
            task.uncancel()
            return True
        return False

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._unread -= 1
        self._forget_caller(task)

    def _forget_caller(self, task: asyncio.Task[Any]) -> None:
        caller = self._callers.pop(task, None)
        if caller is not None:
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, expiry in self._expiries.items():
            if _EXPIRED < expiry <= now:
                self._expiries[task] = _EXPIRED
                expire(task)
        self._sweeping = bool(self._expiries)
        if self._sweeping:
            loop.call_later(_SWEEP_SECONDS, self._sweep)
