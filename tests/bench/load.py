"""Owns the load: callers in closed loops, and what they measure."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench.processes import Target

# Takes the number of the call; the answer is ignored.
Work = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch of load: server CPU per call in µs, calls per second, latencies in ms."""

    cpu_us: float
    rate: float
    p50: float
    p99: float
    calls: int


async def drive(target: Target, work: Work, *, concurrency: int, seconds: float) -> Sample:
    """Call `work` from `concurrency` loops for `seconds` and return its cost and latencies."""
    latencies: list[float] = []
    numbers = iter(range(10_000_000))
    began, cpu = time.monotonic(), target.cpu_us()
    deadline = began + seconds

    async def loop() -> None:
        while time.monotonic() < deadline:
            sent = time.perf_counter()
            await work(next(numbers))
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(loop() for _ in range(concurrency)))
    took, used = time.monotonic() - began, target.cpu_us() - cpu
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    calls = len(latencies)
    return Sample(used / calls, calls / took, cuts[49] * 1_000, cuts[98] * 1_000, calls)


def median(samples: list[Sample]) -> Sample:
    """Return the median of each figure."""

    def middle(name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in samples))

    calls = sum(sample.calls for sample in samples)
    return Sample(middle("cpu_us"), middle("rate"), middle("p50"), middle("p99"), calls)
