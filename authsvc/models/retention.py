"""Owns what is known about data that is due for removal."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Due:
    """How many rows are due, since when the oldest row has ended, and the first that is not due."""

    count: int
    oldest_time: datetime | None
    next_end_time: datetime | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be removed of one kind of data.

    `period` is how long it is kept after it has ended (None: for ever), `due` how much is to be
    removed now, `oldest_time` when the oldest has ended, and `next_time` when more will be due.
    """

    kind: str
    period: timedelta | None
    due: int = 0
    oldest_time: datetime | None = None
    next_time: datetime | None = None

    @classmethod
    def of(cls, kind: str, period: timedelta, due: Due) -> "Plan":
        """Return the plan for a kind of which that much is due."""
        following = due.next_end_time
        next_time = None if following is None else following + period
        return cls(kind, period, due.count, due.oldest_time, next_time)
