"""Owns the search for Argon2id parameters that take a wanted time on this machine."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from argon2 import Parameters
from argon2.low_level import ARGON2_VERSION, Type

from authsvc.config import PasswordSettings
from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library

FLOOR = Parameters(
    type=Type.ID,
    version=ARGON2_VERSION,
    salt_len=argon2id.SALT_BYTES,
    hash_len=32,
    time_cost=PasswordSettings().argon2_time_cost,
    memory_cost=PasswordSettings().argon2_memory_kib,
    parallelism=1,
)
_MAX_PASSES = 64
_STEP_KIB = 1_024
_REFINEMENTS = 3

Measure = Callable[[Parameters], float]


def _ignore() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What all threads together achieve: hashes per second, and CPU seconds per hash."""

    threads: int
    rate: float
    cpu_seconds: float


def propose(measure: Measure, *, target: float, memory_kib: int) -> Parameters:
    """Return the strongest parameters whose hash takes about `target` seconds, and not more.

    Memory comes first, as it is what attackers with special hardware lack (RFC 9106, section 4);
    passes are added when a hash has all of `memory_kib`. `measure` returns the seconds that a hash
    takes. The parameters are never below the floor of the settings, even if that takes longer.
    """
    most_kib = max(memory_kib // _STEP_KIB * _STEP_KIB, FLOOR.memory_cost)
    best, took = FLOOR, measure(FLOOR)
    for _ in range(_REFINEMENTS):
        # The time is proportional to the memory, nearly.
        wanted_kib = int(best.memory_cost * target / took) // _STEP_KIB * _STEP_KIB
        tried = replace(best, memory_cost=min(max(wanted_kib, FLOOR.memory_cost), most_kib))
        if tried == best:
            break
        best, took = tried, measure(tried)
    passes = int(best.time_cost * target / took)
    return replace(best, time_cost=min(max(passes, FLOOR.time_cost), _MAX_PASSES))


def cpu_seconds(
    cost: Parameters, library: Library, hashes: int, done: Callable[[], object] = _ignore
) -> float:
    """Return the median CPU time of a hash; `done` is called after each of them."""
    return statistics.median(_seconds(cost, library, done) for _ in range(hashes))


def _seconds(cost: Parameters, library: Library, done: Callable[[], object]) -> float:
    seconds = argon2id.cpu_seconds(cost, library)
    done()
    return seconds


def under_load(
    *,
    cost: Parameters,
    library: Library,
    threads: int,
    hashes: int,
    done: Callable[[], object] = _ignore,
) -> Load:
    """Return what `threads` threads achieve that compute `hashes` hashes each at the same time.

    `done` is called after each hash, by any of the threads.
    """
    taken: list[float] = []

    def work() -> None:
        taken.extend([_seconds(cost, library, done) for _ in range(hashes)])

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Load(threads, len(taken) / (time.perf_counter() - began), statistics.fmean(taken))
