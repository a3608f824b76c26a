"""Whoever measures logins can't tell from their length whether the account exists (ASVS 6.3.8).

Half of the logins teach a classifier, the other half is what it has to tell apart. What is measured
is processor time, which other processes don't prolong as they do the time of day; what a caller
sees on an idle machine is measured by `python -m tests.bench.enumeration`.
"""

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest_asyncio

from authsvc.config import PasswordSettings
from authsvc.core.passwords.hashing import PasswordHash, Verification
from authsvc.store.postgres.database import Database
from tests.support.accounts import EMAIL, WRONG, CountingHasher, Service, cheap_passwords, unlimited
from tests.support.clock import FakeClock

LOGINS = 500
NOBODY = "nobody@example.test"
# One hash takes about 5 ms of a processor: less than as shipped, but most of what a login takes.
PASSWORDS: PasswordSettings = cheap_passwords(
    argon2_memory_kib=4_096, argon2_time_cost=2, hash_workers=1
)
# Chance is 0.5. With 500 guesses, luck alone is beyond 0.6 once in 100,000 times. Of a whole login
# an idle machine may see that an account's row was read: some ten microseconds, and no hash.
BY_LUCK = 0.6
BY_A_ROW = 0.7


class TimedHasher(CountingHasher):
    """The real hasher, which measures what its threads take."""

    seconds = 0.0

    def _verify(self, stored: PasswordHash | None, password: str, normalized: str) -> Verification:
        start = time.thread_time()
        try:
            return super()._verify(stored, password, normalized)
        finally:
            self.seconds += time.thread_time() - start


@dataclass
class Sample:
    """The seconds of a processor that each login of one kind took: all in all, and to hash."""

    whole: list[float] = field(default_factory=list)
    hashing: list[float] = field(default_factory=list)


@pytest_asyncio.fixture
async def service(database: Database, clock: FakeClock) -> AsyncIterator[Service]:
    started = await Service(database, clock, unlimited(), PASSWORDS).start()
    started.hasher.close()
    started.hasher = TimedHasher(PASSWORDS, started.peppers)
    started.accounts._hasher = started.password_login._hasher = started.hasher
    await started.register()
    yield started
    started.hasher.close()


async def measure(service: Service, logins: int) -> dict[str, Sample]:
    """Return what failing logins take, by address; the addresses take turns at being first."""
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


def told_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how many of one half the best threshold of the other half puts where they belong."""
    lessons = sorted([(s, False) for s in one[::2]] + [(s, True) for s in other[::2]])
    # How many more than half are right if all that takes longer is taken for `other`.
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


async def test_login_time_reveals_nothing_about_account(service: Service) -> None:
    await measure(service, 10)
    samples = await measure(service, LOGINS)
    known, unknown = samples[EMAIL], samples[NOBODY]
    # Or what is measured would not be what matters.
    assert statistics.median(known.hashing) > statistics.median(known.whole) / 3
    assert told_apart(known.hashing, unknown.hashing) <= BY_LUCK
    assert told_apart(known.whole, unknown.whole) <= BY_A_ROW


def test_classifier_distinguishes_known_samples() -> None:
    one, other = [1.0 + n % 7 / 10 for n in range(100)], [1.5 + n % 7 / 10 for n in range(100)]
    assert told_apart(one, one) <= 0.5
    assert told_apart(one, other) == told_apart(other, one) > 0.8
    assert told_apart([0.0] * 100, [1.0] * 100) == told_apart([1.0] * 100, [0.0] * 100) == 1
