"""Owns the threads that work on passwords: their number, their queue and their memory."""

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from authsvc.core.passwords.processors import spare_processors
from authsvc.errors import Overloaded, Resource
from authsvc.measures import Histogram

# Below the other threads of the service, but with a share of a loaded machine: at 19, a login took
# seconds there, and a starved thread that held the interpreter's lock stalled all other calls.
_NICENESS = 5

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], Any]
    memory_kib: int
    slow: bool
    arrival: float = field(default_factory=time.perf_counter)
    future: Future[Any] = field(default_factory=Future)


class HashPool:
    """Threads with a bounded queue and bounded memory, where jobs mostly run in order of arrival.

    The jobs that run at once need at most `memory_kib` in all. `slow` jobs may take a second and
    hundreds of MiB each: they leave one thread to others (a single worker has a second thread for
    them), and while one of them runs, those that wait for its memory are overtaken.

    `waits` are the times for which jobs waited for a thread, in vain or not.

    Overloaded is raised at once if `max_queued` jobs of the same kind are waiting, and after
    `max_seconds` if a job is not done by then.
    """

    def __init__(
        self, *, workers: int, max_queued: int, memory_kib: int, max_seconds: float
    ) -> None:
        self.workers = workers or spare_processors()
        self._max_queued = max_queued
        self._memory_kib = memory_kib
        self._max_seconds = max_seconds
        self._threads = max(2, self.workers)
        self._executor = ThreadPoolExecutor(self._threads, "hashing", initializer=_be_nice)
        self._lock = threading.Lock()
        self._waiting: dict[_Job, None] = {}
        self._running: set[_Job] = set()
        self._mean_seconds = 0.05
        self.waits = Histogram()

    @property
    def queued(self) -> int:
        """The number of jobs waiting for a thread or for memory."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of jobs being executed."""
        return len(self._running)

    async def run(
        self, work: Callable[[], Result], *, memory_kib: int = 0, slow: bool = False
    ) -> Result:
        """Return the result of `work`, which needs `memory_kib` of memory.

        A job that needs more than all of the pool's memory runs when no other does.

        Raises:
            Overloaded: Too many jobs are waiting, or this one was not done in time.
        """
        # With the caller's context, so that log lines from there carry its request id.
        work = partial(contextvars.copy_context().run, work)
        job = _Job(work, min(memory_kib, self._memory_kib), slow)
        with self._lock:
            self._waiting[job] = None
            self._start_waiting()
            if job in self._waiting and self._waiting_like(job) > self._max_queued:
                del self._waiting[job]
                raise self._overloaded("Too many passwords are waiting to be hashed.")
        try:
            async with asyncio.timeout(self._max_seconds):
                result: Result = await asyncio.wrap_future(job.future)
                return result
        except TimeoutError:
            raise self._overloaded("The password was not hashed in time.") from None
        finally:
            with self._lock:
                if job in self._waiting:
                    del self._waiting[job]
                    self.waits.record(time.perf_counter() - job.arrival)

    def close(self) -> None:
        """Stop the threads after their current job; cancel whatever still waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for job in waiting:
            job.future.cancel()
        self._executor.shutdown()

    def _start_waiting(self) -> None:
        """Start the waiting jobs that may run now; the caller holds the lock."""
        while len(self._running) < self._threads and (job := self._next()) is not None:
            del self._waiting[job]
            self._running.add(job)
            self._executor.submit(self._execute, job)

    def _next(self) -> _Job | None:
        slow = sum(job.slow for job in self._running)
        memory_kib = sum(job.memory_kib for job in self._running)
        for job in self._waiting:
            if job.slow and slow >= self._threads - 1:
                continue
            if not job.slow and len(self._running) - slow >= self.workers:
                continue
            if memory_kib + job.memory_kib <= self._memory_kib:
                return job
            if not slow:
                # What runs now is done soon, and smaller jobs must not overtake this one for ever.
                return None
        return None

    def _execute(self, job: _Job) -> None:
        start = time.perf_counter()
        outcome: Callable[[], object]
        try:
            outcome = partial(job.future.set_result, job.work())
        except BaseException as error:  # noqa: BLE001 - the caller of `run` handles it
            outcome = partial(job.future.set_exception, error)
        with self._lock:
            self._running.remove(job)
            self.waits.record(start - job.arrival)
            self._mean_seconds += (time.perf_counter() - start - self._mean_seconds) / 16
            self._start_waiting()
        # Cancelled, if its caller did not wait for it.
        if job.future.set_running_or_notify_cancel():
            outcome()

    def _waiting_like(self, job: _Job) -> int:
        return sum(other.slow is job.slow for other in self._waiting)

    def _overloaded(self, message: str) -> Overloaded:
        jobs = len(self._waiting) + len(self._running) + 1
        return Overloaded(message, self._mean_seconds * jobs / self.workers, Resource.HASHES)


def _be_nice() -> None:
    """Let the event loop run before this thread, where threads have a priority of their own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
