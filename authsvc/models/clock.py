"""Owns the clock protocol; the system clock is in `core/lib/clock.py`."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; injected so that tests can move it."""

    def now(self) -> datetime:
        """Return the current time as an aware datetime in UTC."""
