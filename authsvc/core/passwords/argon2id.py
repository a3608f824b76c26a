"""Owns the computation of Argon2id, by libsodium where that applies and else by argon2-cffi.

Both compute the same bytes. libsodium needs about half the CPU time, as it picks its instructions
(AVX2, AVX-512) at run time, but it knows only one lane and salts of 16 bytes. argon2-cffi computes
all other hashes, and judges every PHC string that is not of exactly the form that libsodium takes.
Both release the GIL.
"""

import binascii
import functools
import hmac
import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from enum import StrEnum

from argon2 import Parameters
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw, verify_secret
from nacl.bindings import crypto_pwhash_alg, crypto_pwhash_ALG_ARGON2ID13
from nacl.exceptions import RuntimeError as SodiumError

SALT_BYTES = 16
_MIN_HASH_BYTES = 16
_MIN_MEMORY_KIB = 8
# Only what libsodium takes: version 1.3, one lane, 16 bytes of salt, at least 16 of hash.
_PHC = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[1-9][0-9]{0,6}),t=(?P<passes>[1-9][0-9]{0,2}),p=1"
    r"\$(?P<salt>[A-Za-z0-9+/]{22})\$(?P<digest>[A-Za-z0-9+/]{22,171})",
    re.ASCII,
)
_MEASURED_KIB = 4_096
_MEASURED_PASSES = 2
_MEASURED_HASHES = 5
_MEASURED_BYTES = 32
# For each lane; more than glibc adds to a block to round it to pages.
_MEASURED_STEP_KIB = 8


class Library(StrEnum):
    """A library that computes Argon2id."""

    LIBSODIUM = "libsodium"
    ARGON2_CFFI = "argon2-cffi"


def compute(
    secret: bytes, salt: bytes, cost: Parameters, library: Library = Library.LIBSODIUM
) -> bytes:
    """Return the Argon2id hash of `secret`, by `library` if it knows these parameters.

    Raises:
        argon2.exceptions.HashingError: The parameters are not valid, or memory is short.
    """
    if library is Library.LIBSODIUM and applies_to(cost):
        try:
            return crypto_pwhash_alg(
                cost.hash_len,
                secret,
                salt,
                cost.time_cost,
                cost.memory_cost * 1024,
                crypto_pwhash_ALG_ARGON2ID13,
            )
        except SodiumError:
            # It does not say what failed, and memory may be short only for the moment.
            pass
    return hash_secret_raw(
        secret,
        salt,
        time_cost=cost.time_cost,
        memory_cost=cost.memory_cost,
        parallelism=cost.parallelism,
        hash_len=cost.hash_len,
        type=Type.ID,
        version=cost.version,
    )


def applies_to(cost: Parameters) -> bool:
    """Return whether libsodium can compute hashes with these parameters."""
    return (
        cost.parallelism == 1
        and cost.salt_len == SALT_BYTES
        and cost.hash_len >= _MIN_HASH_BYTES
        and cost.version == ARGON2_VERSION
        and cost.memory_cost >= _MIN_MEMORY_KIB
    )


def encode(cost: Parameters, salt: bytes, digest: bytes) -> str:
    """Return the PHC string of a hash."""
    salt64, digest64 = (b64encode(part).rstrip(b"=").decode() for part in (salt, digest))
    return (
        f"$argon2id$v={cost.version}"
        f"$m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}${salt64}${digest64}"
    )


def verify(phc: str, secret: bytes, library: Library = Library.LIBSODIUM) -> bool:
    """Return whether `phc` is the hash of `secret`.

    Raises:
        argon2.exceptions.VerificationError: It is not a hash that can be computed.
    """
    parsed = _parse(phc)
    if parsed is None:
        try:
            return verify_secret(phc.encode(), secret, Type.ID)
        except VerifyMismatchError:
            return False
    cost, salt, digest = parsed
    return hmac.compare_digest(compute(secret, salt, cost, library), digest)


def measure(cost: Parameters) -> Mapping[Library, float]:
    """Return the seconds of CPU time that a hash takes this thread, by library.

    The first call in a process takes 40 ms of CPU time, the others none: they scale what it found.
    """
    work = cost.time_cost * cost.memory_cost
    rates = measure_rates(cost.parallelism)
    return {library: seconds * work for library, seconds in rates.items()}


@functools.cache
def measure_rates(parallelism: int) -> Mapping[Library, float]:
    """Return the seconds of CPU time that each KiB of each pass takes, by library.

    Measured with little memory, as a start has no time for more. The libraries take turns, and the
    fastest of a few hashes counts, as whatever else runs here only slows them down. Each hash takes
    a little more memory than the last: once glibc has unmapped a block, it takes later ones of up
    to that size from a heap that it doesn't shrink, so this thread would keep what argon2-cffi has
    allocated.
    """
    best = dict.fromkeys(Library, float("inf"))
    for turn in range(_MEASURED_HASHES):
        small = Parameters(
            type=Type.ID,
            version=ARGON2_VERSION,
            salt_len=SALT_BYTES,
            hash_len=_MEASURED_BYTES,
            time_cost=_MEASURED_PASSES,
            memory_cost=(_MEASURED_KIB + turn * _MEASURED_STEP_KIB) * parallelism,
            parallelism=parallelism,
        )
        work = small.time_cost * small.memory_cost
        for library in Library:
            best[library] = min(best[library], cpu_seconds(small, library) / work)
    return best


def cpu_seconds(cost: Parameters, library: Library) -> float:
    """Return the CPU time of one hash in this thread."""
    secret, salt = os.urandom(32), os.urandom(cost.salt_len)
    began = time.thread_time()
    compute(secret, salt, cost, library)
    return time.thread_time() - began


def _parse(phc: str) -> tuple[Parameters, bytes, bytes] | None:
    """Return the parts of a hash that libsodium can compute, or None if it is another."""
    match = _PHC.fullmatch(phc)
    if match is None:
        return None
    salt, digest = _decoded(match["salt"]), _decoded(match["digest"])
    if salt is None or digest is None:
        return None
    cost = Parameters(
        type=Type.ID,
        version=ARGON2_VERSION,
        salt_len=len(salt),
        hash_len=len(digest),
        time_cost=int(match["passes"]),
        memory_cost=int(match["memory"]),
        parallelism=1,
    )
    return (cost, salt, digest) if applies_to(cost) else None


def _decoded(text: str) -> bytes | None:
    """Return the bytes of unpadded base64, or None if it is not canonical."""
    try:
        value = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
    return value if b64encode(value).rstrip(b"=").decode() == text else None
