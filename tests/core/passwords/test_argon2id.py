"""libsodium and argon2-cffi compute the same hashes, and each verifies those of the other."""

import base64
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from argon2 import Parameters, extract_parameters
from argon2.exceptions import HashingError, VerificationError
from argon2.low_level import Type, hash_secret, hash_secret_raw, verify_secret
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_pwhash_alg
from nacl.exceptions import RuntimeError as SodiumError

from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library

COST = Parameters(
    type=Type.ID,
    version=19,
    salt_len=16,
    hash_len=32,
    time_cost=1,
    memory_cost=64,
    parallelism=1,
)
# Prints by how many KiB the measurement makes the process grow, in a thread as the pool runs it.
_MEASURE_IN_A_THREAD = """
from pathlib import Path
from threading import Thread
from argon2 import Parameters, Type
from authsvc.core.passwords.argon2id import measure

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

before = resident()
thread = Thread(target=measure, args=(Parameters(Type.ID, 19, 16, 32, 2, 19_456, 1),))
thread.start()
thread.join()
print(resident() - before)
"""
SALT = b"sixteen bytes .."
SECRETS = st.binary(max_size=200) | st.text(max_size=100).map(str.encode)


@st.composite
def costs(draw: st.DrawFn) -> Parameters:
    """Any parameters at a price that a test can pay, most of them within libsodium's range."""
    lanes = draw(st.sampled_from([1, 1, 1, 2, 4]))
    return Parameters(
        type=Type.ID,
        version=draw(st.sampled_from([19, 19, 19, 16])),
        salt_len=draw(st.sampled_from([16, 16, 16, 8, 17, 32])),
        hash_len=draw(st.integers(4, 130)),
        time_cost=draw(st.integers(1, 4)),
        memory_cost=draw(st.integers(8 * lanes, 300)),
        parallelism=lanes,
    )


def by_argon2_cffi(secret: bytes, salt: bytes, cost: Parameters) -> bytes:
    return hash_secret_raw(
        secret,
        salt,
        cost.time_cost,
        cost.memory_cost,
        cost.parallelism,
        cost.hash_len,
        Type.ID,
        cost.version,
    )


@given(secret=SECRETS, cost=costs(), data=st.data())
@example(secret=b"", cost=COST, data=None)
@example(secret=b"\0", cost=COST, data=None)
@example(secret=b"nul \0 inside", cost=replace(COST, memory_cost=8), data=None)
@example(secret=b"x" * 1024, cost=replace(COST, time_cost=3), data=None)
@example(secret="кошка 👩‍👩‍👧".encode(), cost=replace(COST, hash_len=128), data=None)
@settings(deadline=None)
def test_libraries_compute_the_same_bytes(
    secret: bytes, cost: Parameters, data: st.DataObject | None
) -> None:
    salt = SALT if data is None else data.draw(st.binary(min_size=1).map(lambda part: part * 40))
    salt = salt[: cost.salt_len].ljust(cost.salt_len, b".")
    expected = by_argon2_cffi(secret, salt, cost)
    for library in Library:
        assert argon2id.compute(secret, salt, cost, library) == expected
    phc = argon2id.encode(cost, salt, expected)
    assert extract_parameters(phc) == cost
    for library in Library:
        assert argon2id.verify(phc, secret, library)
        assert not argon2id.verify(phc, secret + b"x", library)
    assert verify_secret(phc.encode(), secret, Type.ID)


@given(secret=SECRETS, cost=costs())
@settings(deadline=None)
def test_hash_formatted_by_argon2_cffi_is_verified(secret: bytes, cost: Parameters) -> None:
    salt = SALT.ljust(cost.salt_len, b".")[: cost.salt_len]
    phc = hash_secret(
        secret,
        salt,
        cost.time_cost,
        cost.memory_cost,
        cost.parallelism,
        cost.hash_len,
        Type.ID,
        cost.version,
    ).decode()
    assert argon2id.verify(phc, secret)
    assert not argon2id.verify(phc, secret + b"x")
    parsed = argon2id._parse(phc)
    assert (parsed is not None) == argon2id.applies_to(cost)
    if parsed is not None:
        assert argon2id.encode(*parsed) == phc


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ({}, True),
        ({"memory_cost": 8}, True),
        ({"hash_len": 16}, True),
        ({"hash_len": 15}, False),
        ({"salt_len": 15}, False),
        ({"salt_len": 32}, False),
        ({"parallelism": 2}, False),
        ({"version": 16}, False),
        ({"memory_cost": 7}, False),
    ],
)
def test_libsodium_is_asked_only_for_what_it_knows(
    change: dict[str, Any], applies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = replace(COST, **change)
    assert argon2id.applies_to(cost) is applies
    asked = []

    def observed(*arguments: Any) -> bytes:
        asked.append(arguments)
        computed: bytes = crypto_pwhash_alg(*arguments)
        return computed

    monkeypatch.setattr(argon2id, "crypto_pwhash_alg", observed)
    if cost.memory_cost >= 8:
        argon2id.compute(b"secret", bytes(cost.salt_len), cost)
        argon2id.compute(b"secret", bytes(cost.salt_len), cost, Library.ARGON2_CFFI)
    assert len(asked) == (cost.memory_cost >= 8 and applies)


PHC = hash_secret(b"secret", SALT, 1, 64, 1, 32, Type.ID).decode()
SALT64 = base64.b64encode(SALT).decode()[:22]


@pytest.mark.parametrize(
    "phc",
    [
        "",
        "$argon2id$",
        PHC[:-1],
        PHC[:-1] + "!",
        PHC + "=",
        PHC + "\n",
        PHC.replace("t=1", "t=0"),
        PHC.replace("m=64", "m=064"),
        PHC.replace("m=64", "m=7"),
        PHC.replace("p=1", "p=1,x=1"),
        # A character that sets bits beyond the last byte of the salt.
        PHC.replace(SALT64, SALT64[:-1] + "h"),
    ],
)
def test_malformed_hash_is_refused_by_argon2_cffi(phc: str) -> None:
    assert argon2id._parse(phc) is None
    with pytest.raises(VerificationError):
        argon2id.verify(phc, b"secret")


def test_hash_of_another_kind_is_refused() -> None:
    other = hash_secret(b"secret", SALT, 3, 64, 1, 32, Type.I).decode()
    with pytest.raises(VerificationError):
        argon2id.verify(other, b"secret")


def test_argon2_cffi_stands_in_when_libsodium_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise SodiumError("Unexpected failure in key derivation")

    monkeypatch.setattr(argon2id, "crypto_pwhash_alg", fail)
    assert argon2id.verify(PHC, b"secret")
    with pytest.raises(HashingError):
        argon2id.compute(b"secret", SALT, replace(COST, memory_cost=1))


def test_measurement_covers_both_libraries_at_a_bounded_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs: list[Parameters] = []

    def note(secret: bytes, salt: bytes, cost: Parameters, library: Library) -> bytes:
        costs.append(cost)
        return compute(secret, salt, cost, library)

    compute = argon2id.compute
    monkeypatch.setattr(argon2id, "compute", note)
    argon2id.measure_rates.cache_clear()
    costly = replace(COST, memory_cost=4_194_304, time_cost=64)
    measured = argon2id.measure(costly)
    assert measured.keys() == set(Library)
    # Proportional: 1024 times the memory, 32 times the passes.
    assert all(1 < seconds < float("inf") for seconds in measured.values())
    assert {cost.time_cost for cost in costs} == {2}
    assert all(4_096 <= cost.memory_cost <= 4_200 for cost in costs)
    # The machine stays the same, so a process measures once.
    count = len(costs)
    assert argon2id.measure(replace(costly, time_cost=32)) == {
        library: seconds / 2 for library, seconds in measured.items()
    }
    assert len(costs) == count


def test_measurement_leaves_no_memory_behind() -> None:
    # In a process of its own, with a heap that nobody has used.
    growth = subprocess.run(
        [sys.executable, "-c", _MEASURE_IN_A_THREAD], check=True, capture_output=True, text=True
    )
    assert int(growth.stdout) < 2_048
