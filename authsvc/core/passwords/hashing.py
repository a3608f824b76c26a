"""Owns the hashing of passwords: the scheme and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
Hashes of other systems are compared with as `foreign_hashes` says, until their first match.
"""

import hashlib
import hmac
import os
import unicodedata
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from argon2 import Parameters, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret, verify_secret

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import foreign_hashes
from authsvc.core.passwords.foreign_hashes import HashRefused
from authsvc.core.passwords.pool import HashPool
from authsvc.errors import FieldInvalid

MAX_PASSWORD_BYTES = 1024

_SCHEME = "v1"
_FOREIGN = "foreign:"
_SALT_BYTES = 16
_HASH_BYTES = 32

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A stored password: the scheme's version and a PHC string, such as `v1$argon2id$v=19$…`.

    `pepper_id` names the pepper that it was made with. None: another system made it, and it is
    `foreign:` and what `foreign_hashes.parse` takes.
    """

    phc: str = field(repr=False)
    pepper_id: str | None

    @property
    def portable(self) -> str:
        """The form that `PasswordHasher.take_over` takes, with the pepper's id."""
        return self.phc.removeprefix(_FOREIGN)


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
        self._pool = HashPool(settings.hash_workers, settings.hash_queue)

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
        and never match. A hash of older parameters takes its own time until its owner's next login,
        and one of another system its own time and that of a hash of today when it doesn't match:
        so whose password was never used here can be told by the time, to that extent.

        Raises:
            FieldInvalid: It can't be a password.
            Overloaded: Too many hashes wait.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._verify(stored, password, normalized))

    def take_over(self, text: str, pepper_id: str | None) -> PasswordHash:
        """Return how a hash is stored: of another system, or our own with its pepper's id.

        Raises:
            HashRefused: It is in no known format, costs too much, or its pepper isn't in the
                settings.
        """
        if not text.startswith(_SCHEME + "$"):
            if pepper_id is not None:
                raise HashRefused("has a pepper, and is none of this service's")
            return PasswordHash(_FOREIGN + foreign_hashes.parse(text).text, None)
        if pepper_id not in self._peppers:
            raise HashRefused("was made with a pepper that is not in the settings")
        phc = text.removeprefix(_SCHEME)
        if not phc.startswith("$argon2id$"):
            raise HashRefused("is in no known format, or malformed")
        if not self._is_of_today(phc):
            foreign_hashes.parse(phc)
        return PasswordHash(text, pepper_id)

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
        try:
            verify_secret(phc.encode(), _mac(self._peppers[stored.pepper_id], normalized), Type.ID)
        except VerifyMismatchError:
            return Verification(matches=False, rehash=False)
        except VerificationError as error:
            raise _Unusable(str(error)) from None
        newest = stored.pepper_id == self._newest_pepper_id
        return Verification(matches=True, rehash=not newest or not self._is_of_today(phc))

    def _is_of_today(self, phc: str) -> bool:
        try:
            return extract_parameters(phc) == self._parameters
        except InvalidHashError:
            return False

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


def _matches_foreign(text: str, password: str) -> bool:
    try:
        return foreign_hashes.parse(text.removeprefix(_FOREIGN)).matches(password.encode())
    except (HashRefused, VerificationError, ValueError, MemoryError) as error:
        raise _Unusable(str(error)) from None


def _mac(pepper: bytes, normalized: str) -> bytes:
    return hmac.digest(pepper, normalized.encode(), hashlib.sha256)
