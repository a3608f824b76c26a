"""Owns what is accepted of password hashes from other systems: their values, and at what cost.

`foreign_forms` reads how the systems write them. A password is compared as the other system did: as
raw UTF-8, not normalized, and for bcrypt only its first 72 bytes. At the first login it is rehashed
with all that `hashing` promises.

The cost of a comparison is bounded to about a second and 256 MiB on one core, as anybody can make
the service do one. Hashes that are cheap to guess are `weak`; `hashing` wraps them.
"""

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import new as new_digest

from argon2 import Parameters
from argon2.low_level import Type

from authsvc.core.passwords.foreign_schemes import (
    Argon2,
    Bcrypt,
    Digest,
    Firebase,
    ForeignHash,
    Pbkdf2,
    Phpass,
    Prehash,
    Scrypt,
    from_bcrypt64,
    from_phpass64,
    phpass_cost,
)

MAX_SALT_BYTES = 128
_SALT_BYTES = range(8, MAX_SALT_BYTES + 1)
_HASH_BYTES = range(16, 129)

_MAX_ARGON2_KIB = 262_144
_MAX_ARGON2_PASSES = 10
_MAX_ARGON2_LANES = 16
# Memory times passes, to which the time is proportional.
_MAX_ARGON2_WORK = 1_048_576
_MAX_BCRYPT_COST = 14
_MAX_SCRYPT_BYTES = 268_435_456
_MAX_SCRYPT_BLOCK = 64
_MAX_SCRYPT_LANES = 16
# In digest computations: a hash longer than one digest takes several per iteration.
_MAX_PBKDF2_WORK = {"sha1": 2_000_000, "sha224": 2_000_000, "sha256": 2_000_000}
_MAX_PBKDF2_WORK |= {"sha384": 1_000_000, "sha512": 1_000_000}
# These two are loops in Python, which keep other threads waiting.
_MAX_DIGEST_ITERATIONS = 10_000
_PHPASS_COSTS = range(7, 20)


class HashRefused(Exception):
    """The hash is not accepted; the message says why, without revealing any of it."""


@dataclass(frozen=True, slots=True)
class FirebaseParameters:
    """A Firebase project's parameters for its modified scrypt, as shown in its console.

    The signer key is a secret of the project; it is needed only for the import.
    """

    signer_key: bytes = field(repr=False)
    salt_separator: bytes
    rounds: int
    mem_cost: int


def firebase_hash(parameters: FirebaseParameters, salt: str, digest: str) -> ForeignHash:
    """Return a user's hash from a Firebase export, `salt` and `digest` in either base64 alphabet.

    Firebase encrypts the signer key with AES-CTR under a key that scrypt derives from the password.
    Digest and signer key together therefore yield the key stream, which depends on the password
    alone: only that is stored, not the signer key.

    Raises:
        HashRefused: As for `foreign_forms.parse`.
    """
    # Its command line writes one alphabet, its libraries the other.
    salt, digest = (text.replace("-", "+").replace("_", "/") for text in (salt, digest))
    encrypted, key = decoded(digest, "hash"), parameters.signer_key
    if len(encrypted) != len(key):
        raise HashRefused("differs in length from the signer key")
    return firebase(
        ln=parameters.mem_cost,
        r=parameters.rounds,
        salt=(decoded(salt, "salt") if salt else b"") + parameters.salt_separator,
        digest=bytes(one ^ other for one, other in zip(encrypted, key, strict=True)),
    )


def argon2(
    kind: Type, version: int, *, memory: int, passes: int, lanes: int, salt: bytes, digest: bytes
) -> Argon2:
    """Return an Argon2 hash that may be compared.

    Raises:
        HashRefused: It may not, as for all of these functions.
    """
    if (
        memory > _MAX_ARGON2_KIB
        or passes > _MAX_ARGON2_PASSES
        or lanes > _MAX_ARGON2_LANES
        or memory * passes > _MAX_ARGON2_WORK
    ):
        raise _too_costly()
    if memory < 8 * lanes:
        raise HashRefused("has less memory than Argon2 needs")
    _check_sizes(salt, digest)
    cost = Parameters(
        type=kind,
        version=version,
        salt_len=len(salt),
        hash_len=len(digest),
        time_cost=passes,
        memory_cost=memory,
        parallelism=lanes,
    )
    return Argon2(cost=cost, salt=salt, digest=digest)


def bcrypt(cost: int, salt64: str, digest64: str, prehash: Prehash) -> Bcrypt:
    """Return a bcrypt hash that may be compared; the unused bits of salt and hash don't count."""
    if cost > _MAX_BCRYPT_COST:
        raise _too_costly()
    return Bcrypt(
        cost=cost, salt=from_bcrypt64(salt64), digest=from_bcrypt64(digest64), prehash=prehash
    )


def scrypt(*, n: int, r: int, p: int, salt: bytes, digest: bytes) -> Scrypt:
    """Return a scrypt hash that may be compared."""
    if 128 * n * r * p > _MAX_SCRYPT_BYTES or r > _MAX_SCRYPT_BLOCK or p > _MAX_SCRYPT_LANES:
        raise _too_costly()
    # RFC 7914, section 2.
    if r < 1 or p < 1 or n < 2 or n & (n - 1) or n.bit_length() > 16 * r:
        raise HashRefused("has a cost that scrypt does not allow")
    _check_sizes(salt, digest)
    return Scrypt(n=n, r=r, p=p, salt=salt, digest=digest)


def firebase(*, ln: int, r: int, salt: bytes, digest: bytes) -> Firebase:
    """Return Firebase's modified scrypt, if it may be compared."""
    if not 0 < ln < _MAX_SCRYPT_BYTES.bit_length():
        raise _too_costly() if ln > 0 else HashRefused("has a cost that scrypt does not allow")
    plain = scrypt(n=1 << ln, r=r, p=1, salt=salt, digest=digest)
    return Firebase(n=plain.n, r=r, p=1, salt=salt, digest=digest)


def pbkdf2(algorithm: str, iterations: int, *, salt: bytes, digest: bytes) -> Pbkdf2:
    """Return a PBKDF2 hash that may be compared."""
    _check_sizes(salt, digest)
    blocks = -(-len(digest) // new_digest(algorithm).digest_size)
    if iterations * blocks > _MAX_PBKDF2_WORK[algorithm]:
        raise _too_costly()
    if iterations < 1:
        raise HashRefused("has no iterations")
    return Pbkdf2(algorithm=algorithm, iterations=iterations, salt=salt, digest=digest)


def salted_digest(
    algorithm: str, salt: bytes, digest: bytes, *, salt_first: bool, iterations: int = 1
) -> Digest:
    """Return a salted or unsalted digest that may be compared."""
    if iterations > _MAX_DIGEST_ITERATIONS:
        raise _too_costly()
    if len(digest) != new_digest(algorithm, usedforsecurity=False).digest_size:
        raise HashRefused("has a hash whose length is not allowed")
    if len(salt) > MAX_SALT_BYTES:
        raise HashRefused("has a salt whose length is not allowed")
    return Digest(
        algorithm=algorithm, salt=salt, digest=digest, salt_first=salt_first, iterations=iterations
    )


def phpass(cost64: str, salt: str, digest64: str) -> Phpass:
    """Return a portable hash of phpass that may be compared."""
    cost = phpass_cost(cost64)
    if cost > _PHPASS_COSTS[-1]:
        raise _too_costly()
    if cost not in _PHPASS_COSTS:
        raise HashRefused("has a cost that phpass does not allow")
    return Phpass(cost=cost, salt=salt.encode(), digest=from_phpass64(digest64))


def decoded(text: str, name: str) -> bytes:
    """Decode canonical base64, with or without its padding."""
    bare = text.removesuffix("=").removesuffix("=")
    try:
        value = b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise HashRefused(f"has a {name} that is not base64") from None
    if text not in {b64encode(value).decode().rstrip("="), b64encode(value).decode()}:
        raise HashRefused(f"has a {name} that is not canonical base64")
    return value


def _check_sizes(salt: bytes, digest: bytes) -> None:
    if len(salt) not in _SALT_BYTES:
        raise HashRefused("has a salt whose length is not allowed")
    if len(digest) not in _HASH_BYTES:
        raise HashRefused("has a hash whose length is not allowed")


def _too_costly() -> HashRefused:
    return HashRefused("costs more to compare than is allowed")
