"""Owns the hashing of passwords: the scheme, the bounded pool that it runs in, and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import hmac
import os
import sys
import threading
import time
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from argon2 import Parameters, extract_parameters
from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret, verify_secret

from authsvc.config import KeySettings, PasswordSettings
from authsvc.errors import FieldInvalid, Overloaded

MAX_PASSWORD_BYTES = 1024

_SCHEME = "v1"
_SALT_BYTES = 16
_HASH_BYTES = 32
_LOWEST_PRIORITY = 19

_log = structlog.get_logger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A stored password: the scheme's version and a PHC string, such as `v1$argon2id$v=19$…`.

    `pepper_id` names the pepper that it was made with.
    """

    phc: str = field(repr=False)
    pepper_id: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a password is the stored one, and whether to store it anew with today's cost."""

    matches: bool
    rehash: bool


def normalize_password(password: str, field: str = "password") -> str:
    """Return `password` in NFKC, as it is hashed (SP 800-63B-4, 3.1.1.2).

    Raises:
        FieldInvalid: It is empty, has a NUL or half a surrogate pair, or is longer than 1024 bytes,
            before or after (NFKC makes 33 bytes of the 3 of U+FDFA).
    """
    for _ in range(2):
        try:
            length = len(password.encode())
        except UnicodeEncodeError:
            raise FieldInvalid(field, "The password is not valid Unicode.") from None
        if length > MAX_PASSWORD_BYTES:
            raise FieldInvalid(field, f"The password is longer than {MAX_PASSWORD_BYTES} bytes.")
        password = unicodedata.normalize("NFKC", password)
    if not password or "\0" in password:
        raise FieldInvalid(field, "The password is empty or has a NUL character.")
    return password


class _Unusable(Exception):
    """A stored hash can't be compared with; the message says why."""


class PasswordHasher:
    """Hashes passwords with Argon2id in threads of its own, first come, first served.

    At most `hash_queue` wait; beyond that Overloaded is raised at once. A caller that is cancelled
    before its turn costs nothing.
    """

    def __init__(self, settings: PasswordSettings, peppers: Sequence[KeySettings]) -> None:
        self._peppers = {pepper.id: pepper.key_bytes() for pepper in peppers}
        self._newest_pepper_id = peppers[0].id
        self._parameters = Parameters(
            type=Type.ID,
            version=ARGON2_VERSION,
            salt_len=_SALT_BYTES,
            hash_len=_HASH_BYTES,
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        self._dummy = self._hash_of_nothing()
        self._pool = _Pool(settings.hash_workers or _processors(), settings.hash_queue)

    @property
    def queued(self) -> int:
        """How many hashes wait for a thread."""
        return self._pool.queued

    @property
    def running(self) -> int:
        """How many hashes are being computed."""
        return self._pool.running

    async def hash(self, password: str) -> PasswordHash:
        """Return the hash of `password` under the newest pepper.

        Raises:
            FieldInvalid: It can't be a password.
            Overloaded: Too many hashes wait.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._hash(normalized))

    async def verify(self, stored: PasswordHash | None, password: str) -> Verification:
        """Return whether `password` is the stored one.

        None, and a hash that is corrupt or whose pepper is gone, take the work of a hash of today
        and never match. A hash of older parameters takes its own time until its owner's next login.

        Raises:
            FieldInvalid: It can't be a password.
            Overloaded: Too many hashes wait.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._verify(stored, normalized))

    def close(self) -> None:
        """Stop the threads once their present hash is done; who still waits is cancelled."""
        self._pool.close()

    def _hash(self, normalized: str) -> PasswordHash:
        phc = hash_secret(
            _mac(self._peppers[self._newest_pepper_id], normalized),
            os.urandom(_SALT_BYTES),
            time_cost=self._parameters.time_cost,
            memory_cost=self._parameters.memory_cost,
            parallelism=self._parameters.parallelism,
            hash_len=_HASH_BYTES,
            type=Type.ID,
        )
        return PasswordHash(_SCHEME + phc.decode(), self._newest_pepper_id)

    def _verify(self, stored: PasswordHash | None, normalized: str) -> Verification:
        if stored is not None:
            try:
                return self._compare(stored, normalized)
            except _Unusable as fault:
                _log.warning("password_hash_unusable", cause=str(fault), pepper_id=stored.pepper_id)
        self._compare(self._dummy, normalized)
        return Verification(matches=False, rehash=False)

    def _compare(self, stored: PasswordHash, normalized: str) -> Verification:
        if not stored.phc.startswith(_SCHEME + "$"):
            raise _Unusable("its scheme is unknown")
        if stored.pepper_id not in self._peppers:
            raise _Unusable("its pepper is not in the settings")
        phc = stored.phc.removeprefix(_SCHEME)
        try:
            verify_secret(phc.encode(), _mac(self._peppers[stored.pepper_id], normalized), Type.ID)
        except VerifyMismatchError:
            return Verification(matches=False, rehash=False)
        except VerificationError as error:
            raise _Unusable(str(error)) from None
        newest = stored.pepper_id == self._newest_pepper_id
        return Verification(
            matches=True, rehash=not newest or extract_parameters(phc) != self._parameters
        )

    def _hash_of_nothing(self) -> PasswordHash:
        salt, digest = (
            b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _HASH_BYTES)
        )
        cost = self._parameters
        phc = (
            f"$argon2id$v={cost.version}"
            f"$m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}${salt}${digest}"
        )
        return PasswordHash(_SCHEME + phc, self._newest_pepper_id)


class _Pool:
    """Threads with a bounded queue."""

    def __init__(self, workers: int, max_queued: int) -> None:
        self._workers = workers
        self._max_queued = max_queued
        self._executor = ThreadPoolExecutor(workers, "hashing", initializer=_yield_to_other_threads)
        self._lock = threading.Lock()
        self._unfinished = 0
        self._running = 0
        self._mean_seconds = 0.05

    @property
    def queued(self) -> int:
        with self._lock:
            return self._unfinished - self._running

    @property
    def running(self) -> int:
        return self._running

    async def run(self, work: Callable[[], Result]) -> Result:
        with self._lock:
            if self._unfinished >= self._workers + self._max_queued:
                wait = self._mean_seconds * self._max_queued / self._workers
                raise Overloaded("Too many passwords wait to be hashed.", retry_after=wait)
            self._unfinished += 1
        # With the caller's context, so that what is logged there has its request id.
        future = self._executor.submit(contextvars.copy_context().run, self._measured, work)
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def _measured(self, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        with self._lock:
            self._running += 1
        try:
            return work()
        finally:
            with self._lock:
                self._running -= 1
                self._mean_seconds += (time.perf_counter() - start - self._mean_seconds) / 16

    def _finished(self, _: Future[Result]) -> None:
        with self._lock:
            self._unfinished -= 1

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _yield_to_other_threads() -> None:
    """Let the event loop run before this thread, where threads have a priority of their own.

    Measured on two cores: beside saturated hashing the event loop's p99 is 4 to 13 ms at equal
    priority and 1 to 2.5 ms at the lowest, which is what it is without any hashing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def _mac(pepper: bytes, normalized: str) -> bytes:
    return hmac.digest(pepper, normalized.encode(), hashlib.sha256)
