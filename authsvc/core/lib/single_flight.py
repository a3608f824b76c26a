"""Owns the sharing of a read among all who ask for it."""

import asyncio
from collections.abc import Awaitable, Callable


class SingleFlight:
    """Lets all who ask share the next read that starts; one at a time, `interval` seconds apart."""

    def __init__(self, read: Callable[[], Awaitable[None]], interval: float = 0.0) -> None:
        self._run = read
        self._interval = interval
        self._next: asyncio.Task[None] | None = None
        self._running = asyncio.Lock()
        self._started = float("-inf")

    async def read(self) -> None:
        """Return after a read that started from now on; raises what it raised."""
        if self._next is None:
            self._next = asyncio.create_task(self._start())
            self._next.add_done_callback(_look)
        # Who is cancelled while waiting must not take the read away from the others.
        await asyncio.shield(self._next)

    async def _start(self) -> None:
        async with self._running:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(self._started + self._interval - loop.time())
            self._next, self._started = None, loop.time()
            await self._run()


def _look(task: asyncio.Task[None]) -> None:
    """Look at a failure, so that one whose askers were all cancelled is not complained about."""
    if not task.cancelled():
        task.exception()
