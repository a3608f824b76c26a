"""Hashing is bounded: a fixed number of threads and of waiting calls, served in order."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from pydantic import SecretStr

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import argon2id, hashing
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.errors import Overloaded

REQUEST: ContextVar[str] = ContextVar("request")
PEPPER = KeySettings(id="p1", key=SecretStr("A" * 43 + "="))
MAC_OF = {
    hashing._mac(PEPPER.key_bytes(), password): password for password in ("a", "b", "c", "d", "e")
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
    gone.cancel()
    await asyncio.wait([gone])
    assert (hasher.running, hasher.queued) == (1, 1)
    replacing = await start(hasher, "d")
    gate.open()
    await asyncio.gather(first, waiting, replacing)
    assert gone.cancelled()
    assert gate.entered == ["a", "c", "d"]


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


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells which processors may be used")
def test_worker_count_defaults_to_processor_count() -> None:
    hasher = PasswordHasher(PasswordSettings(), [PEPPER])
    assert hasher._pool.workers == len(os.sched_getaffinity(0))
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
