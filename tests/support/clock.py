"""Owns the clock that tests move."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, step: timedelta | float) -> None:
        """Move on by `step` (a float is seconds)."""
        self._now += step if isinstance(step, timedelta) else timedelta(seconds=step)
