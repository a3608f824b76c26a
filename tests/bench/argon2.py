"""Owns the bare hash: what Argon2id costs these cores when they do nothing else."""

import secrets
import statistics
import threading
import time
from dataclasses import dataclass

from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.calibration import FLOOR


@dataclass(frozen=True, slots=True)
class BareHash:
    """Hashes with the default parameters: hashes per second, CPU per hash in µs, p50 in ms."""

    rate: float
    cpu_us: float
    p50: float


def bare_hash(library: Library, threads: int, seconds: float) -> BareHash:
    """Return what `threads` threads achieve that do nothing but hash for `seconds`."""
    cpu: list[float] = []
    wall: list[float] = []
    deadline = time.monotonic() + seconds

    def work() -> None:
        secret, salt = secrets.token_bytes(32), secrets.token_bytes(FLOOR.salt_len)
        while time.monotonic() < deadline:
            began, cpu_before = time.perf_counter(), time.thread_time()
            argon2id.compute(secret, salt, FLOOR, library)
            cpu.append(time.thread_time() - cpu_before)
            wall.append(time.perf_counter() - began)

    began = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return BareHash(
        rate=len(cpu) / (time.monotonic() - began),
        cpu_us=statistics.fmean(cpu) * 1_000_000,
        p50=statistics.median(wall) * 1_000,
    )
