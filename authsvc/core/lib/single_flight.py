"""Owns the sharing of one read among all callers that ask for it."""

import asyncio
from collections.abc import Awaitable, Callable


class SingleFlight:
    """Lets callers share the next read to start; one runs at a time, `interval` seconds apart."""

    def __init__(self, read: Callable[[], Awaitable[None]], interval: float = 0.0) -> None:
        self._run = read
        self._interval = interval
        self._next: asyncio.Task[None] | None = None
        self._running = asyncio.Lock()
        self._started = float("-inf")

    async def read(self) -> None:
        """Wait for a read that starts after this call; raise what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._start())
            self._next.add_done_callback(_retrieve_exception)
        # A caller cancelled while it waits must not cancel the read of the others.
        await asyncio.shield(self._next)

    async def _start(self) -> None:
        async with self._running:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(self._started + self._interval - loop.time())
            self._next, self._started = None, loop.time()
            await self._run()


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Retrieve a failure, so that asyncio does not warn if all callers were cancelled."""
    if not task.cancelled():
        task.exception()
