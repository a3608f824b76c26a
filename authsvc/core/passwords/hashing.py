"""Owns the hashing of passwords: the scheme and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
Hashes from other systems are verified by `foreign_hashes` until they first match.
"""

import hashlib
import hmac
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from argon2 import Parameters, extract_parameters
from argon2.exceptions import HashingError, InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION, Type

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import argon2id, foreign_hashes
from authsvc.core.passwords.argon2id import SALT_BYTES, Library
from authsvc.core.passwords.foreign_hashes import HashRefused
from authsvc.core.passwords.pool import HashPool
from authsvc.errors import FieldInvalid, Overloaded

MAX_PASSWORD_BYTES = 1024

_SCHEME = "v1"
_FOREIGN = "foreign:"
_HASH_BYTES = 32
# A change of password works on passwords three times, within the time limit of one call.
_MAX_SECONDS = 3.0

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A stored password: the scheme's version and a PHC string, such as `v1$argon2id$v=19$…`.

    `pepper_id` names the pepper that it was made with. It is None if the hash comes from another
    system; `phc` is then `foreign:` followed by a text that `foreign_hashes.parse` accepts.
    """

    phc: str = field(repr=False)
    pepper_id: str | None

    @property
    def portable(self) -> str:
        """The form that `PasswordHasher.take_over` accepts, together with the pepper's id."""
        return self.phc.removeprefix(_FOREIGN)


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a password is the stored one, and whether to rehash it at the current cost."""

    matches: bool
    rehash: bool


def normalize_password(password: str, field: str = "password") -> str:
    """Return `password` in NFKC, the form that is hashed (SP 800-63B-4, 3.1.1.2).

    Raises:
        FieldInvalid: It is empty, contains a NUL or a lone surrogate, or exceeds 1024 bytes before
            or after normalization (NFKC turns the 3 bytes of U+FDFA into 33).
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
        raise FieldInvalid(field, "The password is empty or contains a NUL character.")
    return password


class _Unusable(Exception):
    """A stored hash can't be verified against; the message says why."""


class PasswordHasher:
    """Hashes passwords with Argon2id in its own threads, in `hash_memory_mib` of memory at most.

    Every method that works in these threads raises Overloaded at once if `hash_queue` passwords are
    waiting, and after a while if its own was not done by then. A caller that is cancelled before
    its turn costs nothing.
    """

    def __init__(self, settings: PasswordSettings, peppers: Sequence[KeySettings]) -> None:
        self._peppers = {pepper.id: pepper.key_bytes() for pepper in peppers}
        self._newest_pepper_id = peppers[0].id
        self._parameters = Parameters(
            type=Type.ID,
            version=ARGON2_VERSION,
            salt_len=SALT_BYTES,
            hash_len=_HASH_BYTES,
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_parallelism,
        )
        self._dummy = self._dummy_hash()
        self._library = Library.LIBSODIUM
        self._pool = HashPool(
            workers=settings.hash_workers,
            max_queued=settings.hash_queue,
            memory_kib=settings.hash_memory_mib * 1024,
            max_seconds=_MAX_SECONDS,
        )

    @property
    def queued(self) -> int:
        """The number of hashes waiting for a thread."""
        return self._pool.queued

    @property
    def running(self) -> int:
        """The number of hashes being computed."""
        return self._pool.running

    async def choose_library(self) -> None:
        """Measure which library hashes faster on this machine, use it from now on, and log it.

        If the machine is too busy to tell, libsodium stays, where it applies.
        """
        try:
            seconds = await self.run(partial(argon2id.measure, self._parameters))
        except Overloaded:
            log.warning("password_hashing_not_measured")
            return
        if argon2id.applies_to(self._parameters):
            self._library = min(seconds, key=lambda library: seconds[library])
        else:
            self._library = Library.ARGON2_CFFI
        log.info(
            "password_hashing",
            library=self._library.value,
            cpu_ms={library.value: round(took * 1000, 1) for library, took in seconds.items()},
            threads=self._pool.workers,
        )

    async def hash(self, password: str) -> PasswordHash:
        """Return the hash of `password` under the newest pepper.

        Raises:
            FieldInvalid: It is not a valid password.
            Overloaded: Too many passwords are waiting, or memory is short.
        """
        normalized = normalize_password(password)
        return await self.run(
            lambda: self._hash(normalized), memory_kib=self._parameters.memory_cost
        )

    async def verify(self, stored: PasswordHash | None, password: str) -> Verification:
        """Return whether `password` is the stored one.

        None, a corrupt hash and a hash whose pepper is gone never match, and take as long as a hash
        with the current parameters. A hash with older parameters takes its own time until its
        user's next login; one from another system, if it doesn't match, its own time plus that of a
        current hash. To that extent, timing reveals which passwords were never used here.

        Raises:
            FieldInvalid: It is not a valid password.
            Overloaded: Too many passwords are waiting, or memory is short.
        """
        normalized = normalize_password(password)
        current_kib = self._parameters.memory_cost
        memory_kib = max(current_kib, self._memory_kib(stored))
        return await self.run(
            lambda: self._verify(stored, password, normalized),
            memory_kib=memory_kib,
            slow=memory_kib > current_kib or (stored is not None and stored.pepper_id is None),
        )

    async def run(
        self, work: Callable[[], Result], *, memory_kib: int = 0, slow: bool = False
    ) -> Result:
        """Return the result of `work` on a password, done in a thread of the pool.

        `memory_kib` and `slow` are those of `HashPool.run`.

        Raises:
            Overloaded: Too many passwords are waiting, or memory is short.
        """
        try:
            return await self._pool.run(work, memory_kib=memory_kib, slow=slow)
        except (HashingError, MemoryError) as error:
            raise Overloaded("There is not enough memory to hash the password.") from error

    def take_over(self, text: str, pepper_id: str | None) -> PasswordHash:
        """Return a hash as it is stored: one from another system, or our own with its pepper's id.

        Raises:
            HashRefused: Its format is unknown, it costs too much, or its pepper is not in the
                settings.
        """
        if not text.startswith(_SCHEME + "$"):
            if pepper_id is not None:
                raise HashRefused("has a pepper id but was not made by this service")
            return PasswordHash(_FOREIGN + foreign_hashes.parse(text).text, None)
        if pepper_id not in self._peppers:
            raise HashRefused("was made with a pepper that is not in the settings")
        phc = text.removeprefix(_SCHEME)
        if not phc.startswith("$argon2id$"):
            raise HashRefused("has an unknown format or is malformed")
        if not self._has_current_parameters(phc):
            foreign_hashes.parse(phc)
        return PasswordHash(text, pepper_id)

    def close(self) -> None:
        """Stop the threads after their current hash; cancel whatever still waits."""
        self._pool.close()

    def _memory_kib(self, stored: PasswordHash | None) -> int:
        """Return the memory that a comparison with a stored hash takes; 0 if it can't match."""
        if stored is None:
            return 0
        try:
            if stored.pepper_id is None:
                return foreign_hashes.parse(stored.portable).memory_kib
            return extract_parameters(stored.phc.removeprefix(_SCHEME)).memory_cost
        except (HashRefused, ValueError):
            return 0

    def _hash(self, normalized: str) -> PasswordHash:
        mac = _mac(self._peppers[self._newest_pepper_id], normalized)
        salt = os.urandom(SALT_BYTES)
        digest = argon2id.compute(mac, salt, self._parameters, self._library)
        phc = argon2id.encode(self._parameters, salt, digest)
        return PasswordHash(_SCHEME + phc, self._newest_pepper_id)

    def _verify(self, stored: PasswordHash | None, password: str, normalized: str) -> Verification:
        if stored is not None:
            try:
                if stored.pepper_id is not None:
                    return self._compare(stored, normalized)
                if _matches_foreign(stored.phc, password):
                    return Verification(matches=True, rehash=True)
            except _Unusable as fault:
                log.warning("password_hash_unusable", cause=str(fault), pepper_id=stored.pepper_id)
        self._compare(self._dummy, normalized)
        return Verification(matches=False, rehash=False)

    def _compare(self, stored: PasswordHash, normalized: str) -> Verification:
        if not stored.phc.startswith(_SCHEME + "$"):
            raise _Unusable("its scheme is unknown")
        if stored.pepper_id not in self._peppers:
            raise _Unusable("its pepper is not in the settings")
        phc = stored.phc.removeprefix(_SCHEME)
        mac = _mac(self._peppers[stored.pepper_id], normalized)
        try:
            matches = argon2id.verify(phc, mac, self._library)
        except VerificationError as error:
            raise _Unusable(str(error)) from None
        if not matches:
            return Verification(matches=False, rehash=False)
        newest = stored.pepper_id == self._newest_pepper_id
        return Verification(
            matches=True, rehash=not newest or not self._has_current_parameters(phc)
        )

    def _has_current_parameters(self, phc: str) -> bool:
        try:
            return extract_parameters(phc) == self._parameters
        except InvalidHashError:
            return False

    def _dummy_hash(self) -> PasswordHash:
        salt, digest = os.urandom(SALT_BYTES), os.urandom(_HASH_BYTES)
        phc = argon2id.encode(self._parameters, salt, digest)
        return PasswordHash(_SCHEME + phc, self._newest_pepper_id)


def _matches_foreign(text: str, password: str) -> bool:
    try:
        return foreign_hashes.parse(text.removeprefix(_FOREIGN)).matches(password.encode())
    except (HashRefused, VerificationError, ValueError) as error:
        raise _Unusable(str(error)) from None


def _mac(pepper: bytes, normalized: str) -> bytes:
    return hmac.digest(pepper, normalized.encode(), hashlib.sha256)
