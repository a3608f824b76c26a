"""Owns the hashing of passwords: the scheme and the peppers.

Scheme v1: NFKC, UTF-8, HMAC-SHA256 keyed with the pepper, Argon2id of the 32 bytes of the MAC.
Hashes from other systems are verified by `foreign_hashes` until they first match.
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
    """Hashes passwords with Argon2id in its own threads, first come, first served.

    At most `hash_queue` hashes wait; beyond that Overloaded is raised at once. A caller that is
    cancelled before its turn costs nothing.
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
        self._dummy = self._dummy_hash()
        self._pool = HashPool(settings.hash_workers, settings.hash_queue)

    @property
    def queued(self) -> int:
        """The number of hashes waiting for a thread."""
        return self._pool.queued

    @property
    def running(self) -> int:
        """The number of hashes being computed."""
        return self._pool.running

    async def hash(self, password: str) -> PasswordHash:
        """Return the hash of `password` under the newest pepper.

        Raises:
            FieldInvalid: It is not a valid password.
            Overloaded: Too many hashes are waiting.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._hash(normalized))

    async def verify(self, stored: PasswordHash | None, password: str) -> Verification:
        """Return whether `password` is the stored one.

        None, a corrupt hash and a hash whose pepper is gone never match, and take as long as a hash
        with the current parameters. A hash with older parameters takes its own time until its
        user's next login; one from another system, if it doesn't match, its own time plus that of a
        current hash. To that extent, timing reveals which passwords were never used here.

        Raises:
            FieldInvalid: It is not a valid password.
            Overloaded: Too many hashes are waiting.
        """
        normalized = normalize_password(password)
        return await self._pool.run(lambda: self._verify(stored, password, normalized))

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
        return Verification(
            matches=True, rehash=not newest or not self._has_current_parameters(phc)
        )

    def _has_current_parameters(self, phc: str) -> bool:
        try:
            return extract_parameters(phc) == self._parameters
        except InvalidHashError:
            return False

    def _dummy_hash(self) -> PasswordHash:
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
