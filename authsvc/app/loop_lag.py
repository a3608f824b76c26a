"""Owns the measurement of the event loop's lag: how late it does what is due."""

import asyncio

from authsvc.measures import Histogram

_INTERVAL = 0.05


class LoopLag:
    """Measures twenty times a second how late a timer fires, which costs some microseconds each."""

    def __init__(self) -> None:
        self.lags = Histogram()

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL
            await asyncio.sleep(_INTERVAL)
            self.lags.record(loop.time() - due)
