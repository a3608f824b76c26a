"""Hashing is bounded: a fixed number of threads and of waiting calls, served in order."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from pydantic import SecretStr

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import argon2id, hashing
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.passwords.pool import HashPool
from authsvc.core.passwords.processors import spare_processors
from authsvc.errors import Overloaded

REQUEST: ContextVar[str] = ContextVar("request")
PEPPER = KeySettings(id="p1", key=SecretStr("A" * 43 + "="))
MAC_OF = {
    hashing._mac(PEPPER.key_bytes(), password.encode()): password
    for password in ("a", "b", "c", "d", "e")
}


class Gate:
    """A gate in front of Argon2 that records each caller and holds it until opened."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.threads: list[int] = []
        self._arrivals = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, mac: bytes, *_: object) -> bytes:
        self.entered.append(MAC_OF[mac])
        self.threads.append(threading.get_native_id())
        self._arrivals.release()
        assert self._opened.wait(30)
        return bytes(32)

    async def arrival(self) -> None:
        assert await asyncio.to_thread(self._arrivals.acquire, timeout=30)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(argon2id, "compute", gate)
    yield gate
    gate.open()


@pytest.fixture
def hasher(gate: Gate) -> Iterator[PasswordHasher]:
    settings = PasswordSettings(hash_workers=1, hash_queue=2)
    hasher = PasswordHasher(settings, [PEPPER])
    yield hasher
    gate.open()
    hasher.close()


async def start(hasher: PasswordHasher, password: str) -> "asyncio.Task[object]":
    """Return the task of a hash that is running or waits for its turn."""
    task: asyncio.Task[object] = asyncio.create_task(hasher.hash(password))
    await asyncio.sleep(0)  # The task runs until it first waits, which is for a thread.
    return task


async def test_full_queue_returns_overloaded_with_retry_after(
    hasher: PasswordHasher, gate: Gate
) -> None:
    tasks = [await start(hasher, "a")]
    await gate.arrival()
    tasks += [await start(hasher, "b"), await start(hasher, "c")]
    assert (hasher.running, hasher.queued) == (1, 2)
    with pytest.raises(Overloaded) as caught:
        await hasher.hash("d")
    assert caught.value.retry_after > 0
    with pytest.raises(Overloaded):
        await hasher.verify(None, "d")
    gate.open()
    await asyncio.gather(*tasks)
    assert (hasher.running, hasher.queued) == (0, 0)
    await hasher.hash("e")
    assert gate.entered == ["a", "b", "c", "e"]


async def test_cancelled_waiter_costs_no_work_and_frees_its_place(
    hasher: PasswordHasher, gate: Gate
) -> None:
    first = await start(hasher, "a")
    await gate.arrival()
    gone, waiting = await start(hasher, "b"), await start(hasher, "c")
    began = time.perf_counter()
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.wait([gone])
    assert (hasher.running, hasher.queued) == (1, 1)
    waited = time.perf_counter() - began
    replacing = await start(hasher, "d")
    gate.open()
    await asyncio.gather(first, waiting, replacing)
    assert gone.cancelled()
    assert gate.entered == ["a", "c", "d"]
    # Those who left have waited, too: two of the four for all that time.
    counts, seconds = hasher.waits.read()
    assert counts[-1][1] == 4
    assert seconds >= 2 * waited


async def test_cancelled_running_job_keeps_its_thread_busy(
    hasher: PasswordHasher, gate: Gate
) -> None:
    running = await start(hasher, "a")
    await gate.arrival()
    running.cancel()
    await asyncio.wait([running])
    assert (hasher.running, hasher.queued) == (1, 0)
    waiting = [await start(hasher, "b"), await start(hasher, "c")]
    with pytest.raises(Overloaded):
        await hasher.hash("d")
    gate.open()
    await asyncio.gather(*waiting)


async def test_concurrency_equals_number_of_workers(gate: Gate) -> None:
    hasher = PasswordHasher(PasswordSettings(hash_workers=2, hash_queue=1), [PEPPER])
    tasks = [await start(hasher, password) for password in ("a", "b", "c")]
    await gate.arrival()
    await gate.arrival()
    assert (hasher.running, hasher.queued) == (2, 1)
    gate.open()
    await asyncio.gather(*tasks)
    hasher.close()


async def test_failure_frees_its_place(
    hasher: PasswordHasher, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(argon2id, "compute", fail)
        for _ in range(5):
            with pytest.raises(Overloaded):
                await hasher.hash("a")
    assert (hasher.running, hasher.queued) == (0, 0)
    gate.open()
    await hasher.hash("b")


async def test_work_inherits_request_context(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str | None] = []

    def note(*_: object) -> bytes:
        requests.append(REQUEST.get(None))
        return bytes(32)

    monkeypatch.setattr(argon2id, "compute", note)
    REQUEST.set("request-1")
    await hasher.hash("a")
    assert requests == ["request-1"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux")
async def test_hashing_yields_to_the_event_loop(hasher: PasswordHasher, gate: Gate) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    running = await start(hasher, "a")
    await gate.arrival()
    (thread,) = gate.threads
    assert os.getpriority(os.PRIO_PROCESS, thread) == 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    gate.open()
    await running


def test_worker_count_defaults_to_spare_processors() -> None:
    hasher = PasswordHasher(PasswordSettings(), [PEPPER])
    assert hasher._pool.workers == spare_processors()
    hasher.close()


async def test_close_cancels_waiters(hasher: PasswordHasher, gate: Gate) -> None:
    running, waiting = await start(hasher, "a"), await start(hasher, "b")
    await gate.arrival()
    closing = asyncio.create_task(asyncio.to_thread(hasher.close))
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    gate.open()
    await closing
    await running


MIB = 1024


class Jobs:
    """Jobs of a pool: each holds its thread until the test ends it, and is known by its name."""

    def __init__(self, pool: HashPool) -> None:
        self.pool = pool
        self.tasks: dict[str, asyncio.Task[str]] = {}
        self._ends: dict[str, threading.Event] = {}
        self._running: dict[str, int] = {}
        self._changed = threading.Condition()

    async def start(self, name: str, mib: int = 0, *, slow: bool = False) -> None:
        """Submit a job."""
        end = self._ends[name] = threading.Event()

        def work() -> str:
            with self._changed:
                self._running[name] = mib
                self._changed.notify_all()
            assert end.wait(30)
            with self._changed:
                del self._running[name]
                self._changed.notify_all()
            return name

        run = self.pool.run(work, memory_kib=mib * MIB, slow=slow)
        self.tasks[name] = asyncio.create_task(run)
        await asyncio.sleep(0)  # The task runs until it waits for its turn.

    async def run_exactly(self, *names: str) -> None:
        """Wait until these jobs run; fail if the pool lets others run instead."""
        assert self.pool.running == len(names)

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: self._running.keys() == set(names), 30)

        assert await asyncio.to_thread(wait), (names, self._running)

    async def end(self, *names: str) -> None:
        """Let jobs end, and wait until they have."""
        for name in names:
            self._ends[name].set()
            assert await self.tasks[name] == name

    def end_all(self) -> None:
        for end in self._ends.values():
            end.set()


def pool_of(**changes: int) -> HashPool:
    parts = {"workers": 4, "max_queued": 8, "memory_kib": 100 * MIB, "max_seconds": 30}
    return HashPool(**parts | changes)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs(pool_of())
    yield jobs
    jobs.end_all()
    jobs.pool.close()


async def test_memory_of_running_jobs_is_bounded_as_a_sum(jobs: Jobs) -> None:
    for name in ("a", "b", "c"):
        await jobs.start(name, 40)
    await jobs.run_exactly("a", "b")
    await jobs.end("a")
    await jobs.run_exactly("b", "c")


async def test_small_jobs_do_not_starve_one_that_needs_more_memory(jobs: Jobs) -> None:
    await jobs.start("a", 40)
    await jobs.start("b", 40)
    await jobs.start("large", 80)
    await jobs.start("c", 20)
    await jobs.run_exactly("a", "b")
    await jobs.end("a")
    assert jobs.pool.queued == 2
    await jobs.end("b")
    await jobs.run_exactly("large", "c")


async def test_job_larger_than_all_memory_runs_alone(jobs: Jobs) -> None:
    await jobs.start("a", 1)
    await jobs.start("huge", 5_000)
    await jobs.start("b", 1)
    await jobs.run_exactly("a")
    await jobs.end("a")
    await jobs.run_exactly("huge")
    await jobs.end("huge")
    await jobs.run_exactly("b")


async def test_slow_jobs_leave_one_thread_to_others(jobs: Jobs) -> None:
    for name in ("s1", "s2", "s3", "s4"):
        await jobs.start(name, slow=True)
    await jobs.run_exactly("s1", "s2", "s3")
    await jobs.start("a")
    await jobs.run_exactly("s1", "s2", "s3", "a")
    await jobs.end("a")
    assert jobs.pool.queued == 1
    await jobs.end("s1")
    await jobs.run_exactly("s2", "s3", "s4")


async def test_slow_job_that_waits_for_memory_is_overtaken(jobs: Jobs) -> None:
    await jobs.start("s1", 90, slow=True)
    await jobs.start("s2", 90, slow=True)
    await jobs.start("a", 10)
    await jobs.run_exactly("s1", "a")
    await jobs.end("s1", "a")
    await jobs.run_exactly("s2")


async def test_single_worker_has_a_second_thread_for_slow_jobs() -> None:
    jobs = Jobs(pool_of(workers=1))
    for name in ("s1", "s2", "a", "b"):
        await jobs.start(name, slow=name.startswith("s"))
    await jobs.run_exactly("s1", "a")
    await jobs.end("a")
    await jobs.run_exactly("s1", "b")
    await jobs.end("s1")
    await jobs.run_exactly("s2", "b")
    await jobs.end("s2", "b")
    jobs.pool.close()


async def test_waiting_slow_jobs_leave_places_to_others() -> None:
    jobs = Jobs(pool_of(workers=2, max_queued=1))
    for name in ("s1", "s2", "a"):
        await jobs.start(name, slow=name.startswith("s"))
    with pytest.raises(Overloaded):
        await jobs.pool.run(str, slow=True)
    await jobs.start("b")
    assert (jobs.pool.running, jobs.pool.queued) == (2, 2)
    with pytest.raises(Overloaded):
        await jobs.pool.run(str)
    jobs.end_all()
    await asyncio.gather(*jobs.tasks.values())
    jobs.pool.close()


async def test_job_that_is_not_done_in_time_is_overloaded() -> None:
    jobs = Jobs(pool_of(workers=1, max_seconds=0))
    await jobs.start("running")
    await jobs.start("waiting")
    for task in jobs.tasks.values():
        with pytest.raises(Overloaded, match="in time") as caught:
            await task
        assert caught.value.retry_after > 0
    # Its thread can't be stopped, but whoever gave up waiting has left the queue.
    assert (jobs.pool.running, jobs.pool.queued) == (1, 0)
    jobs.end_all()
    jobs.pool.close()
    assert jobs.pool.running == 0
