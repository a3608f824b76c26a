"""Owns the division of long computations into slices, so that no call keeps the event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from time import perf_counter
from typing import TypeVar

# Seconds. Some items may exceed it, so it leaves room below the 5 ms that a turn may take.
_SLICE = 0.001
# Items between two looks at the clock, which takes as long as the work on some of them. The most
# expensive ones, signatures, take a tenth of a millisecond each.
_STEP = 4
# Items that are cheaper than a function call for each.
_PART = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


class Slices:
    """Applies functions to many items, in slices of a millisecond for each turn of the event loop.

    All computations together get one slice a turn, whatever their number, and take it in rotation:
    the fewer items somebody has, the sooner they are done. What fits in the present slice doesn't
    wait at all.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._end: float | None = None
        self._waiting: dict[object, asyncio.Future[None]] = {}

    async def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return the function's result for each item, in order; raise what it raises."""
        results: list[Result] = []
        clock, extend = self._clock, results.extend
        if self._waiting or clock() >= self._begin():
            await self._wait()
        remaining = iter(items)
        while True:
            end = self._begin()
            while True:
                done = len(results)
                extend(map(function, islice(remaining, _STEP)))
                if len(results) < done + _STEP:
                    return results
                if clock() >= end:
                    break
            await self._wait()

    async def map_async(
        self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]
    ) -> list[Result]:
        """Return what awaiting the function's result gives for each item, in order."""
        results: list[Result] = []
        for item in items:
            if self._waiting or self._clock() >= self._begin():
                await self._wait()
            results.append(await function(item))
        return results

    async def run(
        self, function: Callable[[Sequence[Item]], object], items: Sequence[Item]
    ) -> None:
        """Apply the function to consecutive parts of `items`, which are too cheap for `map`."""
        await self.map(
            function, (items[start : start + _PART] for start in range(0, len(items), _PART))
        )

    def _begin(self) -> float:
        """Return when the slice of this turn ends; the first to ask begins it."""
        if self._end is None:
            self._end = self._clock() + _SLICE
            asyncio.get_running_loop().call_soon(self._finish)
        return self._end

    def _finish(self) -> None:
        """Let all that wait try in the next turn, in the order in which they came."""
        self._end = None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    async def _wait(self) -> None:
        """Wait for a slice, behind all that wait already."""
        place = object()
        try:
            while True:
                self._begin()  # so that `_finish` comes, even if all that are ahead are cancelled
                # A place that is there already keeps its position.
                self._waiting[place] = asyncio.get_running_loop().create_future()
                await self._waiting[place]
                if self._clock() < self._begin():
                    return
        finally:
            self._waiting.pop(place)
