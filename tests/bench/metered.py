"""Owns a service that measures the turns of its event loop.

Its first argument is the path of a unix socket, the others are those of `authsvc`. Whoever connects
to the socket is sent the CPU time in milliseconds of the longest turn since the last time; what
other processes do doesn't count. The loop never sleeps meanwhile, so nothing else should be
measured with this service.
"""

import asyncio
import sys
from time import thread_time
from typing import Any

from authsvc.cli import main, serve


class Meter:
    """Measures each turn of the running event loop, from one callback to the next."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._longest = 0.0
        self._last = thread_time()
        self._loop.call_soon(self._tick)

    def take(self) -> float:
        """Return the longest turn in seconds, and begin again."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _tick(self) -> None:
        now = thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        self._loop.call_soon(self._tick)


def _run(path: str) -> None:
    serve_until_signal = serve.serve_until_signal

    async def metered(*arguments: Any) -> None:
        meter = Meter()

        async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f"{meter.take() * 1_000}".encode())
            writer.close()

        async with await asyncio.start_unix_server(tell, path):
            await serve_until_signal(*arguments)

    serve.serve_until_signal = metered  # type: ignore[assignment]  # it passes everything on
    main.main()


if __name__ == "__main__":
    socket = sys.argv.pop(1)
    _run(socket)
