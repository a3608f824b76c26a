"""Owns the hashing of passwords: the scheme and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
Hashes from other systems are verified as there until they first match. The weak ones among them are
wrapped: what is stored is the old hash's parameters, and v1 of its digest (after a tag, as no
password contains a NUL) in place of the password.
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
from authsvc.conventions import HASH
from authsvc.core.passwords import argon2id, foreign_forms
from authsvc.core.passwords.argon2id import SALT_BYTES, Library
from authsvc.core.passwords.foreign_hashes import HashRefused
from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.pool import HashPool
from authsvc.errors import FieldInvalid, Overloaded, Resource
from authsvc.measures import Histogram
from authsvc.tracing import span

MAX_PASSWORD_BYTES = 1024

_SCHEME = "v1"
_FOREIGN = "foreign:"
_WRAPPED = "wrapped:"
_WRAPPED_TAG = b"wrapped\0"
_HASH_BYTES = 32
# A change of password works on passwords three times, within the time limit of one call.
_MAX_SECONDS = 3.0

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A stored password: the scheme's version and a PHC string, such as `v1$argon2id$v=19$…`.

    `pepper_id` names the pepper that it was made with. It is None if the hash comes from another
    system; `phc` is then `foreign:` followed by a text that `foreign_forms.parse` accepts. That of
    a wrapped hash is `wrapped:`, such a text with zeros for its digest, a space, and a PHC string.
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

    @property
    def waits(self) -> Histogram:
        """The times for which hashes waited for a thread."""
        return self._pool.waits

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
        user's next login; one from another system, if it doesn't match or is wrapped, its own time
        plus that of a current hash. To that extent, timing reveals which passwords were never used
        here.

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
            slow=memory_kib > current_kib or (stored is not None and _is_foreign(stored)),
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
            with span(HASH):
                return await self._pool.run(work, memory_kib=memory_kib, slow=slow)
        except (HashingError, MemoryError) as error:
            raise Overloaded(
                "There is not enough memory to hash the password.", what=Resource.HASHES
            ) from error

    def take_over(
        self, text: str, pepper_id: str | None, *, accept_weak: bool = False
    ) -> PasswordHash | ForeignHash:
        """Return a hash as it is stored: one from another system, or our own with its pepper's id.

        With `accept_weak`, a weak hash from another system is returned as such, to be wrapped
        (see `wrap`).

        Raises:
            HashRefused: Its format is unknown, it costs too much or is weak, or its pepper is not
                in the settings.
        """
        if text.startswith((_SCHEME + "$", _WRAPPED)):
            return self._take_over_own(text, pepper_id)
        if pepper_id is not None:
            raise HashRefused("has a pepper id but was not made by this service")
        foreign = foreign_forms.parse(text)
        if not foreign.weak:
            return PasswordHash(_FOREIGN + foreign.text, None)
        if not accept_weak:
            raise HashRefused(
                "is weak (without a salt, or with less than 10 ms of CPU a guess);"
                " accept_weak_hashes accepts it, wrapped in Argon2id"
            )
        return foreign

    async def wrap(self, weak: ForeignHash) -> PasswordHash:
        """Return a weak hash from another system as it is stored: within an Argon2id hash.

        Raises:
            Overloaded: Too many passwords are waiting, or memory is short.
        """
        return await self.run(
            lambda: PasswordHash(
                f"{_WRAPPED}{weak.parameters} {self._phc(_WRAPPED_TAG + weak.digest)}",
                self._newest_pepper_id,
            ),
            memory_kib=self._parameters.memory_cost,
            # Leaves a thread to those who log in.
            slow=True,
        )

    def close(self) -> None:
        """Stop the threads after their current hash; cancel whatever still waits."""
        self._pool.close()

    def _take_over_own(self, text: str, pepper_id: str | None) -> PasswordHash:
        if pepper_id not in self._peppers:
            raise HashRefused("was made with a pepper that is not in the settings")
        parameters, phc = _parts(text)
        if parameters is not None:
            foreign_forms.parse(parameters)
        if not phc.startswith("$argon2id$"):
            raise HashRefused("has an unknown format or is malformed")
        if not self._has_current_parameters(phc):
            foreign_forms.parse(phc)
        return PasswordHash(text, pepper_id)

    def _memory_kib(self, stored: PasswordHash | None) -> int:
        """Return the memory that a comparison with a stored hash takes; 0 if it can't match."""
        if stored is None:
            return 0
        try:
            if stored.pepper_id is None:
                return foreign_forms.parse(stored.portable).memory_kib
            parameters, phc = _parts(stored.phc)
            inner = 0 if parameters is None else foreign_forms.parse(parameters).memory_kib
            return max(inner, extract_parameters(phc).memory_cost)
        except (HashRefused, ValueError):
            return 0

    def _hash(self, normalized: str) -> PasswordHash:
        return PasswordHash(_SCHEME + self._phc(normalized.encode()), self._newest_pepper_id)

    def _phc(self, secret: bytes) -> str:
        salt = os.urandom(SALT_BYTES)
        mac = _mac(self._peppers[self._newest_pepper_id], secret)
        digest = argon2id.compute(mac, salt, self._parameters, self._library)
        return argon2id.encode(self._parameters, salt, digest)

    def _verify(self, stored: PasswordHash | None, password: str, normalized: str) -> Verification:
        if stored is not None:
            try:
                if stored.pepper_id is not None:
                    return self._compare(stored, password, normalized)
                if _matches_foreign(stored.portable, password):
                    return Verification(matches=True, rehash=True)
            except _Unusable as fault:
                log.warning("password_hash_unusable", cause=str(fault), pepper_id=stored.pepper_id)
        self._compare(self._dummy, password, normalized)
        return Verification(matches=False, rehash=False)

    def _compare(self, stored: PasswordHash, password: str, normalized: str) -> Verification:
        if not stored.phc.startswith((_SCHEME + "$", _WRAPPED)):
            raise _Unusable("its scheme is unknown")
        if stored.pepper_id not in self._peppers:
            raise _Unusable("its pepper is not in the settings")
        parameters, phc = _parts(stored.phc)
        secret = normalized.encode()
        if parameters is not None:
            secret = _WRAPPED_TAG + _foreign(parameters, lambda old: old.compute(password.encode()))
        try:
            matches = argon2id.verify(
                phc, _mac(self._peppers[stored.pepper_id], secret), self._library
            )
        except VerificationError as error:
            raise _Unusable(str(error)) from None
        if not matches:
            return Verification(matches=False, rehash=False)
        current = stored.pepper_id == self._newest_pepper_id and self._has_current_parameters(phc)
        return Verification(matches=True, rehash=parameters is not None or not current)

    def _has_current_parameters(self, phc: str) -> bool:
        try:
            return extract_parameters(phc) == self._parameters
        except InvalidHashError:
            return False

    def _dummy_hash(self) -> PasswordHash:
        salt, digest = os.urandom(SALT_BYTES), os.urandom(_HASH_BYTES)
        phc = argon2id.encode(self._parameters, salt, digest)
        return PasswordHash(_SCHEME + phc, self._newest_pepper_id)


def _is_foreign(stored: PasswordHash) -> bool:
    return stored.pepper_id is None or stored.phc.startswith(_WRAPPED)


def _parts(phc: str) -> tuple[str | None, str]:
    """Return the parameters of the old hash, None if there is none within, and the PHC string."""
    if phc.startswith(_WRAPPED):
        parameters, _, wrapping = phc.removeprefix(_WRAPPED).partition(" ")
        return parameters, wrapping
    return None, phc.removeprefix(_SCHEME)


def _matches_foreign(text: str, password: str) -> bool:
    return _foreign(text, lambda old: old.matches(password.encode()))


def _foreign(text: str, work: Callable[[ForeignHash], Result]) -> Result:
    try:
        return work(foreign_forms.parse(text))
    except (HashRefused, ValueError) as error:
        raise _Unusable(str(error)) from None


def _mac(pepper: bytes, secret: bytes) -> bytes:
    return hmac.digest(pepper, secret, hashlib.sha256)
