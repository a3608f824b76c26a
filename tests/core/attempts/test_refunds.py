"""Refunds that can't be made at once: repeated until they are, bounded in number and time."""

import asyncio

import pytest

from authsvc.core.attempts import refunds as module
from authsvc.core.attempts.refunds import Refunds
from authsvc.core.lib.time_limit import expire
from authsvc.errors import StoreUnavailable

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat refunds at once."""
    monkeypatch.setattr(module, "_INTERVAL", 0.0)


class Work:
    """A refund that fails so many times, or raises something else than a failure of the service."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.failures, self.error = failures, error or StoreUnavailable()
        self.made, self.calls = asyncio.Event(), 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise self.error
        self.made.set()


async def test_refund_is_made_at_once() -> None:
    work = Work()
    await Refunds().make(work)
    assert work.made.is_set()


async def test_failed_refund_is_repeated_until_made() -> None:
    refunds, work, later = Refunds(), Work(failures=5), Work()
    await refunds.make(work)
    assert not work.made.is_set()
    await work.made.wait()
    assert work.calls == 6
    # The background ends when nothing waits, and starts again.
    refunds.make_later(later)
    await later.made.wait()
    assert (work.calls, later.calls) == (6, 1)


@pytest.mark.parametrize("expired", [True, False])
async def test_refund_interrupted_by_time_limit_only_is_repeated(expired: bool) -> None:
    refunds, started, made = Refunds(), asyncio.Event(), asyncio.Event()

    async def refund() -> None:
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()
        made.set()

    task = asyncio.create_task(refunds.make(refund))
    await started.wait()
    if expired:
        expire(task)
    else:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    last = Work()
    refunds.make_later(last)
    await last.made.wait()
    assert made.is_set() is expired


async def test_refund_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", -1.0)
    refunds, hopeless, last = Refunds(), Work(failures=1_000_000), Work()
    refunds.make_later(hopeless)
    refunds.make_later(last)
    await last.made.wait()
    assert hopeless.calls == 1


async def test_defect_of_one_refund_does_not_stop_others() -> None:
    refunds, last = Refunds(), Work()
    refunds.make_later(Work(failures=1, error=RuntimeError()))
    refunds.make_later(last)
    await last.made.wait()


async def test_refund_of_locked_row_does_not_hold_up_others() -> None:
    refunds, locked, last = Refunds(), Work(failures=1_000_000), Work()
    refunds.make_later(locked)
    refunds.make_later(last)
    async with asyncio.timeout(5):
        await last.made.wait()
    # It is still repeated, until the row is free.
    locked.failures = 0
    await locked.made.wait()


async def test_number_of_waiting_refunds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 2)
    refunds, works = Refunds(), [Work() for _ in range(3)]
    for work in works:
        refunds.make_later(work)
    await works[1].made.wait()
    last = Work()
    refunds.make_later(last)
    await last.made.wait()
    assert [work.calls for work in works] == [1, 1, 0]
