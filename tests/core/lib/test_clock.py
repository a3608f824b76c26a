"""The database's clock: exact whatever the machine's clock says, and quick to follow a step."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from authsvc.core.lib import clock as module
from authsvc.core.lib.clock import ClockSample, DatabaseClock, SystemClock, elapsed
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

_START = datetime(2030, 1, 1, tzinfo=UTC)


class Machine:
    """A machine's stopwatch, and the database's clock, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_000.0
        self.database_ahead = timedelta()
        monkeypatch.setattr(module, "elapsed", lambda: self.seconds)

    def database_time(self) -> datetime:
        return _START + timedelta(seconds=self.seconds) + self.database_ahead

    def sample(self, *, there: float = 0.0001, back: float = 0.0001) -> ClockSample:
        """Ask the database; the question and the answer take so many seconds."""
        sent = self.seconds
        self.seconds += there
        database_time = self.database_time()
        self.seconds += back
        return ClockSample(database_time, sent, self.seconds)

    def off(self, clock: DatabaseClock) -> float:
        """Return by how many seconds a clock is wrong."""
        return abs((clock.now() - self.database_time()).total_seconds())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_time_goes_on_between_samples_whatever_the_machines_clock_says(machine: Machine) -> None:
    wall = FakeClock()
    clock = DatabaseClock(machine.sample(), wall)
    for step in (0.5, 3_600, 0):
        machine.seconds += step
        wall.advance(-1_000)
        assert machine.off(clock) < 0.001


def test_half_of_the_round_trip_is_the_most_that_it_can_be_wrong(machine: Machine) -> None:
    for there, back in ((0.2, 0.0), (0.0, 0.2), (0.1, 0.1)):
        clock = DatabaseClock(machine.sample(there=there, back=back), SystemClock())
        assert machine.off(clock) <= 0.1 + 1e-6


def test_more_exact_sample_is_taken_and_less_exact_one_ignored(machine: Machine) -> None:
    clock = DatabaseClock(machine.sample(there=0.2, back=0.0), SystemClock())
    assert machine.off(clock) > 0.09
    clock.observe(machine.sample())
    assert machine.off(clock) < 0.001
    # As if the process had been stopped between the answer and its arrival.
    clock.observe(machine.sample(back=30.0))
    assert machine.off(clock) < 0.001


def test_sample_wears_out(machine: Machine) -> None:
    """Two machines' stopwatches don't run alike, so in the end a less exact sample is better."""
    clock = DatabaseClock(machine.sample(), SystemClock())
    for _ in range(100):
        machine.seconds += 10
        machine.database_ahead += timedelta(milliseconds=1)
        clock.observe(machine.sample(there=0.005, back=0.005))
    assert machine.off(clock) < 0.03


@pytest.mark.parametrize("step", [-60.0, -0.5, 0.5, 60.0])
def test_step_of_the_databases_clock_is_followed_at_once(machine: Machine, step: float) -> None:
    clock = DatabaseClock(machine.sample(), SystemClock())
    machine.database_ahead += timedelta(seconds=step)
    with capture_logs() as logs:
        # Not even an inexact sample leaves a doubt.
        clock.observe(machine.sample(there=0.1, back=0.1))
    assert machine.off(clock) <= 0.1
    stepped = [entry["seconds"] for entry in logs if entry["event"] == "database_clock_stepped"]
    assert stepped == ([pytest.approx(step, abs=0.2)] if abs(step) > 1 else [])


def test_skew_is_measured_and_logged_once(machine: Machine) -> None:
    wall = FakeClock(machine.database_time())
    clock = DatabaseClock(machine.sample(), wall)
    for ahead, logged in ((0.5, 0), (60, 1), (60, 0), (0, 0), (-2, 1)):
        wall._now = machine.database_time() + timedelta(seconds=ahead)
        with capture_logs() as logs:
            clock.observe(machine.sample())
            clock.observe(machine.sample())
        assert [entry["event"] for entry in logs] == ["clock_skew"] * logged
        assert clock.skew() == pytest.approx(ahead, abs=0.01)


async def test_opened_clock_is_the_databases(database: Database) -> None:
    wrong = FakeClock(datetime(2001, 1, 1, tzinfo=UTC))
    clock = await DatabaseClock.open(database, wrong)
    async with database.connection() as connection:
        before = await connection.fetchval("SELECT clock_timestamp()")
        now = clock.now()
        after = await connection.fetchval("SELECT clock_timestamp()")
    slack = timedelta(seconds=clock._sample.uncertainty)
    assert before - slack <= now <= after + slack
    assert now.tzinfo is UTC
    assert clock.skew() < -1e8


def test_elapsed_only_grows() -> None:
    moments = [elapsed() for _ in range(100)]
    assert moments == sorted(moments)
