"""Owns the computation of password hashes by the schemes of other systems.

Passwords are UTF-8 without a NUL. `foreign_hashes` decides which field values are allowed. Each
scheme has one stored form, its `text`, whatever form its hash came in.
"""

import hashlib
import hmac
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from enum import StrEnum

import bcrypt
from argon2 import Parameters
from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from authsvc.core.passwords import argon2id

_BCRYPT_BYTES = 72
# What a scheme that needs next to no memory counts as.
_LITTLE_KIB = 64
_FIREBASE_KEY_BYTES = 32

# What takes 10 ms of CPU; docs/decisions/0016 has the measurements.
_SLOW_ARGON2_WORK = 20_000
_SLOW_BCRYPT_COST = 8
_SLOW_SCRYPT_BYTES = 4_194_304
_SLOW_PBKDF2_WORK = {"sha1": 40_000, "sha224": 40_000, "sha256": 40_000}
_SLOW_PBKDF2_WORK |= {"sha384": 16_000, "sha512": 16_000}

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BCRYPT_BASE64 = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TO_BCRYPT = bytes.maketrans(_BASE64, _BCRYPT_BASE64)
_FROM_BCRYPT = bytes.maketrans(_BCRYPT_BASE64, _BASE64)
_PHPASS_BASE64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignHash(ABC):
    """A hash from another system, which can be compared at a bounded cost."""

    digest: bytes = field(repr=False)

    @property
    @abstractmethod
    def text(self) -> str:
        """The stored form."""

    @property
    def memory_kib(self) -> int:
        """The memory that a comparison takes."""
        return _LITTLE_KIB

    @property
    @abstractmethod
    def weak(self) -> bool:
        """Whether a guess takes less than 10 ms of CPU, or the hash has no salt."""

    @abstractmethod
    def compute(self, password: bytes) -> bytes:
        """Return the digest of `password`, which is UTF-8 without a NUL."""

    def matches(self, password: bytes) -> bool:
        """Return whether this is the hash of `password`."""
        return hmac.compare_digest(self.compute(password), self.digest)

    @property
    def parameters(self) -> str:
        """The stored form with zeros for the digest: all that is needed to compute it again."""
        return replace(self, digest=bytes(len(self.digest))).text


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2(ForeignHash):
    """Argon2 (RFC 9106), as a PHC string."""

    cost: Parameters
    salt: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The stored form."""
        phc = argon2id.encode(self.cost, self.salt, self.digest)
        return phc.replace("argon2id", f"argon2{self.cost.type.name.lower()}", 1)

    @property
    def memory_kib(self) -> int:
        """The memory that a comparison takes."""
        return self.cost.memory_cost

    @property
    def weak(self) -> bool:
        """Whether a guess takes less than 10 ms of CPU."""
        return self.cost.memory_cost * self.cost.time_cost < _SLOW_ARGON2_WORK

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        if self.cost.type is Type.ID:
            return argon2id.compute(password, self.salt, self.cost)
        return hash_secret_raw(
            password,
            self.salt,
            time_cost=self.cost.time_cost,
            memory_cost=self.cost.memory_cost,
            parallelism=self.cost.parallelism,
            hash_len=self.cost.hash_len,
            type=self.cost.type,
            version=self.cost.version,
        )


class Prehash(StrEnum):
    """What bcrypt is given instead of the password, by how the stored form begins."""

    NONE = ""
    WORDPRESS = "$wp"
    DJANGO = "bcrypt_sha256$"
    PASSLIB_1 = "$bcrypt-sha256$v=1"
    PASSLIB_2 = "$bcrypt-sha256$v=2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bcrypt(ForeignHash):
    """bcrypt of the first 72 bytes of the password, or of a hash of it, in base64 or hex."""

    cost: int
    salt: bytes = field(repr=False)
    prehash: Prehash = Prehash.NONE

    @property
    def text(self) -> str:
        """The stored form."""
        salt, digest = to_bcrypt64(self.salt), to_bcrypt64(self.digest)
        if self.prehash in {Prehash.PASSLIB_1, Prehash.PASSLIB_2}:
            return f"{self.prehash},t=2b,r={self.cost}${salt}${digest}"
        return f"{self.prehash}$2b${self.cost:02}${salt}{digest}"

    @property
    def weak(self) -> bool:
        """Whether a guess takes less than 10 ms of CPU."""
        return self.cost < _SLOW_BCRYPT_COST

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        settings = f"$2b${self.cost:02}${to_bcrypt64(self.salt)}".encode()
        # This library raises for more; all others ignore the rest.
        made = bcrypt.hashpw(self._prehashed(password)[:_BCRYPT_BYTES], settings)
        return from_bcrypt64(made[len(settings) :].decode())

    def _prehashed(self, password: bytes) -> bytes:
        match self.prehash:
            case Prehash.NONE:
                return password
            case Prehash.WORDPRESS:
                return b64encode(hmac.digest(b"wp-sha384", password, "sha384"))
            case Prehash.DJANGO:
                return hashlib.sha256(password).hexdigest().encode()
            case Prehash.PASSLIB_1:
                return b64encode(hashlib.sha256(password).digest())
            case Prehash.PASSLIB_2:
                return b64encode(hmac.digest(to_bcrypt64(self.salt).encode(), password, "sha256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrypt(ForeignHash):
    """The scrypt function (RFC 7914)."""

    n: int
    r: int
    p: int
    salt: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The stored form."""
        exponent = self.n.bit_length() - 1
        return f"$scrypt$ln={exponent},r={self.r},p={self.p}${self._tail}"

    @property
    def memory_kib(self) -> int:
        """The memory that a comparison takes."""
        return -(-self._memory_bytes // 1024)

    @property
    def weak(self) -> bool:
        """Whether a guess takes less than 10 ms of CPU."""
        return 128 * self.n * self.r * self.p < _SLOW_SCRYPT_BYTES

    @property
    def _memory_bytes(self) -> int:
        return 128 * self.r * (self.n + self.p + 2)

    @property
    def _tail(self) -> str:
        return f"{unpadded(self.salt)}${unpadded(self.digest)}"

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        return self._derive(password, len(self.digest))

    def _derive(self, password: bytes, length: int) -> bytes:
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=self._memory_bytes,
            dklen=length,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Firebase(Scrypt):
    """The AES-256-CTR key stream, starting at counter zero, under a key derived by scrypt."""

    @property
    def text(self) -> str:
        """The stored form."""
        return f"$firebase-scrypt$ln={self.n.bit_length() - 1},r={self.r}${self._tail}"

    def compute(self, password: bytes) -> bytes:
        """Return the key stream of a password."""
        key = self._derive(password, _FIREBASE_KEY_BYTES)
        return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(len(self.digest)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbkdf2(ForeignHash):
    """PBKDF2 (RFC 8018, section 5.2), with an HMAC of the hash algorithm."""

    algorithm: str
    iterations: int
    salt: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The stored form."""
        return (
            f"$pbkdf2-{self.algorithm}$i={self.iterations}"
            f"${unpadded(self.salt)}${unpadded(self.digest)}"
        )

    @property
    def weak(self) -> bool:
        """Whether a guess takes less than 10 ms of CPU: its first block suffices for that."""
        return self.iterations < _SLOW_PBKDF2_WORK[self.algorithm]

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        return hashlib.pbkdf2_hmac(
            self.algorithm, password, self.salt, self.iterations, len(self.digest)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest(ForeignHash):
    """A digest of salt and password, in this order or the other, and then of itself."""

    algorithm: str
    salt: bytes = field(repr=False)
    salt_first: bool
    iterations: int = 1

    weak = True

    @property
    def text(self) -> str:
        """The stored form."""
        order = "prefix" if self.salt_first else "suffix"
        return (
            f"$digest-{self.algorithm}$i={self.iterations},s={order}"
            f"${unpadded(self.salt)}${unpadded(self.digest)}"
        )

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        value = self.salt + password if self.salt_first else password + self.salt
        for _ in range(self.iterations):
            value = hashlib.new(self.algorithm, value, usedforsecurity=False).digest()
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Phpass(ForeignHash):
    """phpass's portable hash: MD5, 2^`cost` times."""

    cost: int
    salt: bytes = field(repr=False)

    weak = True

    @property
    def text(self) -> str:
        """The stored form."""
        return f"$P${_PHPASS_BASE64[self.cost]}{self.salt.decode()}{_to_phpass64(self.digest)}"

    def compute(self, password: bytes) -> bytes:
        """Return the digest of a password."""
        value = hashlib.md5(self.salt + password, usedforsecurity=False).digest()
        for _ in range(1 << self.cost):
            value = hashlib.md5(value + password, usedforsecurity=False).digest()
        return value


def unpadded(value: bytes) -> str:
    """Return base64 without its padding."""
    return b64encode(value).decode().rstrip("=")


def to_bcrypt64(value: bytes) -> str:
    """Return bcrypt's base64."""
    return unpadded(value).encode().translate(_TO_BCRYPT).decode()


def from_bcrypt64(text: str) -> bytes:
    """Return the bytes of bcrypt's base64; the unused bits of its last character don't count."""
    return b64decode(text.encode().translate(_FROM_BCRYPT) + b"=" * (-len(text) % 4))


def phpass_cost(character: str) -> int:
    """Return the binary logarithm of the number of rounds."""
    return _PHPASS_BASE64.index(character)


def from_phpass64(text: str) -> bytes:
    """Return the 16 bytes of phpass's base64; the unused bits of its last character don't count."""
    number = sum(_PHPASS_BASE64.index(one) << 6 * at for at, one in enumerate(text))
    return number.to_bytes(-(-len(text) * 6 // 8), "little")[: len(text) * 6 // 8]


def _to_phpass64(value: bytes) -> str:
    number = int.from_bytes(value, "little")
    return "".join(_PHPASS_BASE64[number >> at & 63] for at in range(0, len(value) * 8, 6))
