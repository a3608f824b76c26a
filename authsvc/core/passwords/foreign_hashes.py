"""Owns password hashes from other systems: which are accepted, at what cost, and their parsing.

| scheme        | form                                                                        |
|---------------|-----------------------------------------------------------------------------|
| Argon2        | `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, and argon2i, argon2d                |
| bcrypt        | `$2a$…`, `$2b$…`, `$2y$…`                                                   |
| scrypt        | `$scrypt$ln=…,r=…,p=…$salt$hash`; Django's `scrypt$salt$N$r$p$hash`         |
| PBKDF2        | `$pbkdf2-sha256$i=…,l=…$salt$hash`, passlib's `$pbkdf2-sha256$rounds$…`,    |
|               | Django's `pbkdf2_sha256$iterations$salt$hash`; SHA-1, SHA-256, SHA-512      |
| Firebase      | `$firebase-scrypt$ln=…,r=…$salt$keystream`, as built by `firebase_hash`     |

Django's prefixes `argon2` and `bcrypt$` of the first two are stripped. A password is compared as
the other system did: as raw UTF-8, not normalized, and for bcrypt only its first 72 bytes. At the
first login it is rehashed with all that `hashing` promises.

The cost of a comparison is bounded to about a second and 256 MiB on one core, as anybody can make
the service do one. Weak hashes are accepted, as leaving them elsewhere does not improve them.
"""

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from argon2.low_level import Type

from authsvc.core.passwords.foreign_schemes import Argon2, Bcrypt, Firebase, Pbkdf2, Scrypt

_MAX_TEXT = 512
_SALT_BYTES = range(8, 129)
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
_MAX_PBKDF2_WORK = {"sha1": 2_000_000, "sha256": 2_000_000, "sha512": 1_000_000}


class HashRefused(Exception):
    """The hash is not accepted; the message says why, without revealing any of it."""


class ForeignHash(Protocol):
    """A hash that can be compared at a bounded cost.

    `text` is its stored form, and `memory_kib` the memory that a comparison takes.
    """

    @property
    def text(self) -> str: ...  # noqa: D102 - documented above

    @property
    def memory_kib(self) -> int: ...  # noqa: D102 - documented above

    def matches(self, password: bytes) -> bool:
        """Return whether this is the hash of `password`, which is UTF-8 without a NUL."""
        ...


def parse(text: str) -> ForeignHash:
    """Return the hash that `text` encodes.

    Raises:
        HashRefused: Its format is unknown or malformed, or it costs more than is allowed.
    """
    if len(text) > _MAX_TEXT:
        raise HashRefused(f"is longer than {_MAX_TEXT} characters")
    bare = _WRAPPER.sub("", text)
    for pattern, build in _FORMATS:
        if match := pattern.fullmatch(bare):
            return build(match)
    raise HashRefused("has an unknown format or is malformed")


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
        HashRefused: As for `parse`.
    """
    # Its command line writes one alphabet, its libraries the other.
    salt, digest = (text.replace("-", "+").replace("_", "/") for text in (salt, digest))
    encrypted, key = _bytes(digest, _HASH_BYTES, "hash"), parameters.signer_key
    if len(encrypted) != len(key):
        raise HashRefused("differs in length from the signer key")
    full_salt = _bytes(salt, range(1, 129), "salt") + parameters.salt_separator
    if len(full_salt) not in _SALT_BYTES:
        raise HashRefused("has a salt whose length is not allowed")
    stream = bytes(one ^ other for one, other in zip(encrypted, key, strict=True))
    return parse(
        f"$firebase-scrypt$ln={parameters.mem_cost},r={parameters.rounds}"
        f"${_unpadded(full_salt)}${_unpadded(stream)}"
    )


def _argon2(match: re.Match[str]) -> ForeignHash:
    memory, passes, lanes = (int(match[name]) for name in ("m", "t", "p"))
    if (
        memory > _MAX_ARGON2_KIB
        or passes > _MAX_ARGON2_PASSES
        or lanes > _MAX_ARGON2_LANES
        or memory * passes > _MAX_ARGON2_WORK
    ):
        raise _too_costly()
    if memory < 8 * lanes:
        raise HashRefused("has less memory than Argon2 needs")
    _bytes(match["salt"], _SALT_BYTES, "salt")
    _bytes(match["hash"], _HASH_BYTES, "hash")
    kinds = {"argon2i": Type.I, "argon2d": Type.D, "argon2id": Type.ID}
    return Argon2(match[0], kinds[match["kind"]], memory)


def _bcrypt(match: re.Match[str]) -> ForeignHash:
    if int(match["cost"]) > _MAX_BCRYPT_COST:
        raise _too_costly()
    return Bcrypt(match[0])


def _scrypt(match: re.Match[str]) -> ForeignHash:
    return _scrypt_of(match, 1 << int(match["ln"]), int(match["p"]))


def _firebase(match: re.Match[str]) -> ForeignHash:
    return Firebase(_scrypt_of(match, 1 << int(match["ln"]), 1))


def _django_scrypt(match: re.Match[str]) -> ForeignHash:
    return _scrypt_of(match, int(match["n"]), int(match["p"]))


def _scrypt_of(match: re.Match[str], n: int, p: int) -> Scrypt:
    r = int(match["r"])
    if 128 * n * r * p > _MAX_SCRYPT_BYTES or r > _MAX_SCRYPT_BLOCK or p > _MAX_SCRYPT_LANES:
        raise _too_costly()
    # RFC 7914, section 2.
    if n < 2 or n & (n - 1) or n.bit_length() > 16 * r:
        raise HashRefused("has a cost that scrypt does not allow")
    return Scrypt(match[0], n, r, p, _salt(match), _bytes(match["hash"], _HASH_BYTES, "hash"))


def _pbkdf2(match: re.Match[str]) -> ForeignHash:
    algorithm = match["algorithm"] or "sha1"
    # passlib writes a dot instead of the plus.
    digest = _bytes(match["hash"].replace(".", "+"), _HASH_BYTES, "hash")
    named = match.groupdict().get("length")
    if named is not None and int(named) != len(digest):
        raise HashRefused("does not have the length that it states")
    iterations = int(match["iterations"])
    blocks = -(-len(digest) // hashlib.new(algorithm).digest_size)
    if iterations * blocks > _MAX_PBKDF2_WORK[algorithm]:
        raise _too_costly()
    return Pbkdf2(match[0], algorithm, iterations, _salt(match), digest)


def _salt(match: re.Match[str]) -> bytes:
    if (plain := match.groupdict().get("plain_salt")) is not None:
        return plain.encode()
    return _bytes(match["salt"].replace(".", "+"), _SALT_BYTES, "salt")


def _bytes(text: str, sizes: range, name: str) -> bytes:
    """Decode canonical base64, with or without its padding."""
    bare = text.removesuffix("=").removesuffix("=")
    try:
        value = b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise HashRefused(f"has a {name} that is not base64") from None
    if text not in {_unpadded(value), b64encode(value).decode()}:
        raise HashRefused(f"has a {name} that is not canonical base64")
    if len(value) not in sizes:
        raise HashRefused(f"has a {name} whose length is not allowed")
    return value


def _unpadded(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def _too_costly() -> HashRefused:
    return HashRefused("costs more to compare than is allowed")


_NUMBER = "[1-9][0-9]{0,9}"
_EXPONENT = "[1-9][0-9]?"
_BASE64 = r"\$(?P<salt>[A-Za-z0-9+/.]+)\$(?P<hash>[A-Za-z0-9+/.]+)"
_PLAIN_SALT = r"\$(?P<plain_salt>[!-\#%-~]{8,128})"
_PADDED = r"\$(?P<hash>[A-Za-z0-9+/]+=*)"

_WRAPPER = re.compile(r"\A(?:argon2(?=\$argon2)|bcrypt\$(?=\$2))")
_PATTERNS: Mapping[str, Callable[[re.Match[str]], ForeignHash]] = {
    rf"""\$(?P<kind>argon2(?:id|i|d)) (?:\$v=(?:16|19))?
        \$m=(?P<m>{_NUMBER}),t=(?P<t>{_NUMBER}),p=(?P<p>{_NUMBER}) {_BASE64}""": _argon2,
    # The last characters of salt and hash carry 2 and 4 bits; all others are not canonical.
    r"""\$2[aby] \$(?P<cost>0[4-9]|[12][0-9]|3[01])
        \$[./A-Za-z0-9]{21}[.Oeu] [./A-Za-z0-9]{30}[.CGKOSWaeimquy26]""": _bcrypt,
    rf"""\$scrypt \$ln=(?P<ln>{_EXPONENT}),r=(?P<r>{_NUMBER}),p=(?P<p>{_NUMBER})
        {_BASE64}""": _scrypt,
    rf"""scrypt \$(?P<n>{_NUMBER}) {_PLAIN_SALT} \$(?P<r>{_NUMBER}) \$(?P<p>{_NUMBER})
        {_PADDED}""": _django_scrypt,
    rf"\$firebase-scrypt \$ln=(?P<ln>{_EXPONENT}),r=(?P<r>{_NUMBER}) {_BASE64}": _firebase,
    rf"""\$pbkdf2(?:-(?P<algorithm>sha1|sha256|sha512))?
        \$(?:i=(?P<iterations>{_NUMBER})(?:,l=(?P<length>{_NUMBER}))?) {_BASE64}""": _pbkdf2,
    rf"""\$pbkdf2(?:-(?P<algorithm>sha256|sha512))?
        \$(?P<iterations>{_NUMBER}) {_BASE64}""": _pbkdf2,
    rf"""pbkdf2_(?P<algorithm>sha1|sha256|sha512)
        \$(?P<iterations>{_NUMBER}) {_PLAIN_SALT} {_PADDED}""": _pbkdf2,
}
_FORMATS = [
    (re.compile(pattern, re.ASCII | re.VERBOSE), build) for pattern, build in _PATTERNS.items()
]
