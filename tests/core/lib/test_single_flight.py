"""Shared reads: no caller gets a read that started before its call, and reads stay few."""

import asyncio

import pytest

from authsvc.core.lib.single_flight import SingleFlight


class Source:
    """A source of reads that the test completes one by one."""

    def __init__(self) -> None:
        self.started = 0
        self.overlapping = False
        self._reading = False
        self.gate = asyncio.Event()
        self.fault: Exception | None = None

    async def read(self) -> None:
        self.overlapping |= self._reading
        self._reading = True
        self.started += 1
        try:
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
        finally:
            self._reading = False


async def turns(count: int = 10) -> None:
    """Let everything that is ready to run proceed."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_concurrent_callers_share_one_read() -> None:
    source = Source()
    reads = SingleFlight(source.read)
    source.gate.set()
    await asyncio.gather(*(reads.read() for _ in range(100)))
    assert source.started == 1


async def test_caller_during_read_waits_for_next_one() -> None:
    source = Source()
    reads = SingleFlight(source.read)
    first = asyncio.create_task(reads.read())
    await turns()
    later = [asyncio.create_task(reads.read()) for _ in range(100)]
    await turns()
    assert source.started == 1
    source.gate.set()
    await asyncio.gather(first, *later)
    assert source.started == 2
    assert not source.overlapping


async def test_reads_are_spaced_by_interval() -> None:
    source = Source()
    source.gate.set()
    reads = SingleFlight(source.read, interval=0.02)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(5):
        await reads.read()
    assert source.started == 5
    assert loop.time() - start >= 4 * 0.02 * 0.99


async def test_error_reaches_all_callers_and_next_read_is_tried() -> None:
    source = Source()
    reads = SingleFlight(source.read)
    source.fault = OSError("unreachable")
    source.gate.set()
    outcomes = await asyncio.gather(*(reads.read() for _ in range(3)), return_exceptions=True)
    assert outcomes == [source.fault] * 3
    source.fault = None
    await reads.read()
    assert source.started == 2


async def test_cancelled_caller_does_not_cancel_shared_read() -> None:
    source = Source()
    reads = SingleFlight(source.read)
    first, second = asyncio.create_task(reads.read()), asyncio.create_task(reads.read())
    await turns()
    first.cancel()
    await turns()
    assert not second.done()
    source.gate.set()
    await second
    assert source.started == 1
    with pytest.raises(asyncio.CancelledError):
        await first
