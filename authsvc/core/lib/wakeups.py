"""Owns the waking of many waiting tasks, a few in each turn of the event loop."""

import asyncio
from collections import deque

# A watcher that is woken takes some 50 µs until it waits again; a turn may take 5 ms.
_EACH_TURN = 25


class Wakeups:
    """Lets tasks wait for something that concerns all of them.

    All that wait at a `wake` are woken, in the order in which they came; others get their turns in
    between, however many wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def wake(self) -> None:
        """Wake all that wait now."""
        if not self._woken and self._waiting:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._woken += self._waiting
        self._waiting.clear()

    def _wake_some(self) -> None:
        for _ in range(min(_EACH_TURN, len(self._woken))):
            future = self._woken.popleft()
            if not future.done():
                future.set_result(None)
        if self._woken:
            asyncio.get_running_loop().call_soon(self._wake_some)
