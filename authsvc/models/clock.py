"""Owns what a clock is; the real one is in `core/lib/clock.py`."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; injected so that tests can move it."""

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
