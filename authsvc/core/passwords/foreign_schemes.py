"""Owns the computation of password hashes by the schemes of other systems.

Passwords are UTF-8 without a NUL. `foreign_hashes` decides which field values are allowed.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

import bcrypt
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import Type, verify_secret
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from authsvc.core.passwords import argon2id

_BCRYPT_BYTES = 72
# What a scheme that needs next to no memory counts as.
_LITTLE_KIB = 64
_FIREBASE_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Argon2:
    """Argon2 (RFC 9106), as a PHC string."""

    text: str = field(repr=False)
    kind: Type
    memory_kib: int

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password's hash."""
        if self.kind is Type.ID:
            return argon2id.verify(self.text, password)
        try:
            return verify_secret(self.text.encode(), password, self.kind)
        except VerifyMismatchError:
            return False


@dataclass(frozen=True, slots=True)
class Bcrypt:
    """bcrypt of the password's first 72 bytes, in the modular crypt format."""

    text: str = field(repr=False)
    memory_kib = _LITTLE_KIB

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password's hash."""
        # This library raises for more; all others ignore the rest.
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], self.text.encode())


@dataclass(frozen=True, slots=True)
class Scrypt:
    """The scrypt function (RFC 7914)."""

    text: str = field(repr=False)
    n: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @property
    def memory_kib(self) -> int:
        """The memory that a comparison takes."""
        return -(-self._memory_bytes // 1024)

    @property
    def _memory_bytes(self) -> int:
        return 128 * self.r * (self.n + self.p + 2)

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password's hash."""
        return hmac.compare_digest(self.compute(password, len(self.digest)), self.digest)

    def compute(self, password: bytes, length: int) -> bytes:
        """Return a hash of `length` bytes."""
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=self._memory_bytes,
            dklen=length,
        )


@dataclass(frozen=True, slots=True)
class Firebase:
    """The AES-256-CTR key stream, starting at counter zero, under a key derived by scrypt."""

    scrypt: Scrypt

    @property
    def text(self) -> str:
        """The stored form."""
        return self.scrypt.text

    @property
    def memory_kib(self) -> int:
        """The memory that a comparison takes."""
        return self.scrypt.memory_kib

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password's hash."""
        key = self.scrypt.compute(password, _FIREBASE_KEY_BYTES)
        stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
        return hmac.compare_digest(
            stream.update(bytes(len(self.scrypt.digest))), self.scrypt.digest
        )


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """PBKDF2 (RFC 8018, section 5.2), with an HMAC of the hash algorithm."""

    text: str = field(repr=False)
    algorithm: str
    iterations: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    memory_kib = _LITTLE_KIB

    def matches(self, password: bytes) -> bool:
        """Return whether this is the password's hash."""
        computed = hashlib.pbkdf2_hmac(
            self.algorithm, password, self.salt, self.iterations, len(self.digest)
        )
        return hmac.compare_digest(computed, self.digest)
