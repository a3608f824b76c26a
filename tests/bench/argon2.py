"""Owns the raw Argon2 rate: how fast these cores hash when they do nothing else."""

import secrets
import threading
import time

from argon2.low_level import Type, hash_secret_raw

from authsvc.config import PasswordSettings


def raw_rate(threads: int, seconds: float) -> float:
    """Return how many hashes per second `threads` threads compute with the default parameters."""
    settings = PasswordSettings()
    done = [0] * threads
    deadline = time.monotonic() + seconds

    def work(index: int) -> None:
        salt = secrets.token_bytes(16)
        while time.monotonic() < deadline:
            hash_secret_raw(
                b"a password of some length",
                salt,
                time_cost=settings.argon2_time_cost,
                memory_cost=settings.argon2_memory_kib,
                parallelism=settings.argon2_parallelism,
                hash_len=32,
                type=Type.ID,
            )
            done[index] += 1

    began = time.monotonic()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.monotonic() - began)
