"""Owns the clocks: the machine's own, and the database's, which all replicas share.

Tests inject their own.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog

from authsvc.models.clock import Clock
from authsvc.store import clock as store
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# How far two machines' clocks may drift apart: 500 parts per million is the most that NTP corrects.
_DRIFT = 500e-6
# Seconds of difference that an operator should know of.
_NOTABLE = 1.0
# The seconds since some fixed moment, whatever happens to the machine's clock. They count while the
# machine is suspended, too; elsewhere than on Linux there is no such clock. A partial object, as a
# function of Python's would take twice as long, and each call of the service asks several times.
elapsed = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        """Return the current time as an aware datetime in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ClockSample:
    """The database's time, read between two moments (`elapsed`)."""

    database_time: datetime
    sent: float
    received: float

    @property
    def uncertainty(self) -> float:
        """Half of the round trip in seconds: the middle is off by no more than that."""
        return (self.received - self.sent) / 2

    @property
    def offset(self) -> float:
        """What to add to `elapsed` to get the database's time, in seconds since 1970."""
        return self.database_time.timestamp() - (self.sent + self.received) / 2


class DatabaseClock:
    """The database's clock, followed from samples: what replicas compare is compared by one clock.

    Between samples the time is counted by `elapsed`, so a machine's clock that is wrong or stepped
    changes nothing. A sample is used if it is more exact than what is known, which the drift
    makes less exact every second; or if it contradicts it, because the database's clock was set or
    another server has taken over. So a slow answer, or a process that was stopped in the middle
    of one, does no harm.
    """

    def __init__(self, sample: ClockSample, machine: Clock) -> None:
        self._machine = machine
        self._sample = sample
        self._offset = sample.offset
        self._skew_logged = False
        self._note_skew()

    @classmethod
    async def open(cls, database: Database, machine: Clock) -> "DatabaseClock":
        """Ask the database for its time, and follow it from there; `machine` is only compared.

        Raises StoreUnavailable.
        """
        async with database.connection() as connection:
            sent = elapsed()
            database_time = await store.now(connection)
            return cls(ClockSample(database_time, sent, elapsed()), machine)

    def now(self) -> datetime:
        """Return the database's current time as an aware datetime in UTC."""
        return datetime.fromtimestamp(elapsed() + self._offset, UTC)

    def skew(self) -> float:
        """Return by how many seconds the machine's clock is ahead of the database's."""
        return (self._machine.now() - self.now()).total_seconds()

    def observe(self, sample: ClockSample) -> None:
        """Take note of the database's time."""
        known = self._sample
        uncertainty = known.uncertainty + _DRIFT * max(0.0, sample.received - known.received)
        step = sample.offset - known.offset
        stepped = abs(step) > sample.uncertainty + uncertainty
        if stepped or sample.uncertainty <= uncertainty:
            self._sample, self._offset = sample, sample.offset
        if stepped and abs(step) > _NOTABLE:
            log.warning("database_clock_stepped", seconds=round(step, 3))
        self._note_skew()

    def _note_skew(self) -> None:
        skew = self.skew()
        if abs(skew) <= _NOTABLE:
            self._skew_logged = False
        elif not self._skew_logged:
            self._skew_logged = True
            log.warning("clock_skew", seconds_ahead_of_database=round(skew, 3))
