"""The time that a login takes does not reveal whether the account exists (ASVS 6.3.8).

Half of the logins train a classifier, which then has to classify the other half. CPU time is
measured, as other processes distort it less than wall-clock time; `python -m
tests.bench.enumeration` measures what a caller sees on an idle machine.
"""

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from authsvc.config import PasswordSettings
from authsvc.core.passwords.hashing import PasswordHash, Verification
from authsvc.store.postgres.database import Database
from tests.support.accounts import EMAIL, WRONG, CountingHasher, Service, cheap_passwords, unlimited
from tests.support.clock import FakeClock

LOGINS = 500
NOBODY = "nobody@example.test"
# One hash takes about 5 ms of CPU time: less than by default, but most of what a login takes.
PASSWORDS: PasswordSettings = cheap_passwords(
    argon2_memory_kib=4_096, argon2_time_cost=2, hash_workers=1
)
# Guessing gives 0.5. With 500 guesses, luck alone exceeds 0.6 once in 100,000 times. On an idle
# machine, the time of a whole login may reveal that an account's row was read: some ten
# microseconds, and no hash.
BY_LUCK = 0.6
BY_A_ROW = 0.7


class TimedHasher(CountingHasher):
    """The real hasher, measuring the CPU time of its threads."""

    seconds = 0.0

    def _verify(self, stored: PasswordHash | None, password: str, normalized: str) -> Verification:
        start = time.thread_time()
        try:
            return super()._verify(stored, password, normalized)
        finally:
            self.seconds += time.thread_time() - start


@dataclass
class Sample:
    """The CPU seconds that each login of one kind took: in total, and for hashing."""

    whole: list[float] = field(default_factory=list)
    hashing: list[float] = field(default_factory=list)


@pytest_asyncio.fixture
async def service(database: Database, clock: FakeClock) -> AsyncIterator[Service]:
    started = await Service(database, clock, unlimited(), PASSWORDS).start()
    started.hasher.close()
    started.hasher = TimedHasher(PASSWORDS, started.peppers)
    started.accounts._hasher = started.password_login._hasher = started.hasher
    started.accounts._acceptance._hasher = started.hasher
    await started.register()
    yield started
    started.hasher.close()


async def measure(service: Service, logins: int) -> dict[str, Sample]:
    """Return the times of failing logins by address; the addresses take turns at going first."""
    hasher = service.hasher
    assert isinstance(hasher, TimedHasher)
    samples = {EMAIL: Sample(), NOBODY: Sample()}
    for turn in range(logins):
        if turn % 50 == 0:
            async with service.database.connection() as connection:
                await connection.execute("UPDATE users SET failed_logins = 0")
        for email in (EMAIL, NOBODY) if turn % 2 else (NOBODY, EMAIL):
            hashed, start = hasher.seconds, time.process_time()
            assert await service.login(WRONG, email=email) == "CREDENTIALS_INVALID"
            samples[email].whole.append(time.process_time() - start)
            samples[email].hashing.append(hasher.seconds - hashed)
    return samples


def accuracy(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the accuracy on one half of the best threshold for the other half."""
    lessons = sorted([(s, False) for s in one[::2]] + [(s, True) for s in other[::2]])
    # How many more than half are correct if everything slower than the threshold counts as `other`.
    gain = best = len(other[::2]) - len(lessons) / 2
    threshold = float("-inf")
    for seconds, is_other in lessons:
        gain += -1 if is_other else 1
        if abs(gain) > abs(best):
            best, threshold = gain, seconds
    other_is_longer = best >= 0
    hits = [(seconds > threshold) != other_is_longer for seconds in one[1::2]]
    hits += [(seconds > threshold) == other_is_longer for seconds in other[1::2]]
    return statistics.fmean(hits)


@pytest.mark.world
async def test_login_time_reveals_nothing_about_account(service: Service) -> None:
    await measure(service, 10)
    samples = await measure(service, LOGINS)
    known, unknown = samples[EMAIL], samples[NOBODY]
    # Otherwise hashing would not be the part that matters.
    assert statistics.median(known.hashing) > statistics.median(known.whole) / 3
    assert accuracy(known.hashing, unknown.hashing) <= BY_LUCK
    assert accuracy(known.whole, unknown.whole) <= BY_A_ROW


def test_classifier_distinguishes_known_samples() -> None:
    one, other = [1.0 + n % 7 / 10 for n in range(100)], [1.5 + n % 7 / 10 for n in range(100)]
    assert accuracy(one, one) <= 0.5
    assert accuracy(one, other) == accuracy(other, one) > 0.8
    assert accuracy([0.0] * 100, [1.0] * 100) == accuracy([1.0] * 100, [0.0] * 100) == 1
