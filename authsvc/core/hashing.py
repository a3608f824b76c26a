"""Owns the hashing of passwords: the scheme, the bounded pool that it runs in, and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
"""

import asyncio
import hashlib
import hmac
import os
import threading
import time
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import argon2
import structlog
from argon2.low_level import Type, hash_secret, verify_secret

from authsvc.config import KeySettings, PasswordSettings
from authsvc.errors import FieldInvalid, Overloaded

MAX_PASSWORD_BYTES = 1024

_SCHEME = "v1"
_SALT_BYTES = 16
_HASH_BYTES = 32

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


class PasswordHasher:
    """Hashes passwords with Argon2id in threads of its own, first come, first served.

    At most `hash_queue` wait; beyond that Overloaded is raised at once.
    """

    def __init__(self, settings: PasswordSettings, peppers: Sequence[KeySettings]) -> None:
        self._peppers = {pepper.id: pepper.key_bytes() for pepper in peppers}
        self._newest_pepper_id = peppers[0].id
        self._parameters = argon2.Parameters(
            type=Type.ID,
            version=argon2.low_level.ARGON2_VERSION,
            salt_len=_SALT_BYTES,
            hash_len=_HASH_BYTES,
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        self._pool = _Pool(
            settings.hash_workers or len(os.sched_getaffinity(0)), settings.hash_queue
        )

    async def hash(self, password: str) -> PasswordHash:
        """Return the hash of `password` under the newest pepper.

        Raises:
            FieldInvalid: It can't be a password.
            Overloaded: Too many hashes wait.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._hash(normalized))

    async def verify(self, stored: PasswordHash | None, password: str) -> Verification:
        """Return whether `password` is the stored one; None takes the same work and never matches.

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
            self._mac(normalized, self._newest_pepper_id),
            os.urandom(_SALT_BYTES),
            time_cost=self._parameters.time_cost,
            memory_cost=self._parameters.memory_cost,
            parallelism=self._parameters.parallelism,
            hash_len=_HASH_BYTES,
            type=Type.ID,
        )
        return PasswordHash(_SCHEME + phc.decode(), self._newest_pepper_id)

    def _verify(self, stored: PasswordHash | None, normalized: str) -> Verification:
        usable = stored if stored is not None and self._is_usable(stored) else self._dummy()
        phc = usable.phc.removeprefix(_SCHEME)
        mac = self._mac(normalized, usable.pepper_id)
        try:
            verify_secret(phc.encode(), mac, Type.ID)
        except argon2.exceptions.VerificationError:
            return Verification(matches=False, rehash=False)
        stale = (
            argon2.extract_parameters(phc) != self._parameters
            or usable.pepper_id != self._newest_pepper_id
        )
        return Verification(matches=True, rehash=stale)

    def _is_usable(self, stored: PasswordHash) -> bool:
        if stored.pepper_id not in self._peppers:
            _log.warning("password_pepper_unknown", pepper_id=stored.pepper_id)
            return False
        scheme, _, _ = stored.phc.partition("$")
        try:
            parameters = argon2.extract_parameters(stored.phc.removeprefix(scheme))
        except argon2.exceptions.InvalidHashError:
            parameters = None
        if scheme != _SCHEME or parameters is None or parameters.type is not Type.ID:
            _log.warning("password_hash_unreadable", pepper_id=stored.pepper_id)
            return False
        return True

    def _dummy(self) -> PasswordHash:
        """Return a hash of nothing, with today's parameters: no password is known to match it."""
        salt, digest = (
            b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _HASH_BYTES)
        )
        cost = self._parameters
        phc = (
            f"$argon2id$v={cost.version}"
            f"$m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}${salt}${digest}"
        )
        return PasswordHash(_SCHEME + phc, self._newest_pepper_id)

    def _mac(self, normalized: str, pepper_id: str) -> bytes:
        return hmac.digest(self._peppers[pepper_id], normalized.encode(), hashlib.sha256)


class _Pool:
    """Threads with a bounded queue."""

    def __init__(self, workers: int, max_queued: int) -> None:
        self._workers = workers
        self._max_queued = max_queued
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="hashing")
        self._lock = threading.Lock()
        self._unfinished = 0
        self._mean_seconds = 0.05

    async def run(self, work: Callable[[], Result]) -> Result:
        with self._lock:
            if self._unfinished >= self._workers + self._max_queued:
                wait = self._mean_seconds * self._max_queued / self._workers
                raise Overloaded("Too many passwords wait to be hashed.", retry_after=wait)
            self._unfinished += 1
        future = self._executor.submit(self._timed, work)
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def _timed(self, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self._mean_seconds += (time.perf_counter() - start - self._mean_seconds) / 16

    def _finished(self, _: "Future[Result]") -> None:
        with self._lock:
            self._unfinished -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
