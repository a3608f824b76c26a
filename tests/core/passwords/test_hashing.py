"""Passwords are hashed as documented, with the same work whatever is stored."""

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Iterator

import pytest
from argon2 import Parameters, extract_parameters
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import argon2id, foreign_forms
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.hashing import (
    PasswordHash,
    PasswordHasher,
    Verification,
    normalize_password,
)
from authsvc.core.passwords.pool import HashPool
from authsvc.errors import FieldInvalid, Overloaded, Reason

PASSWORD = "correct horse battery staple"
MATCH = Verification(matches=True, rehash=False)
STALE_MATCH = Verification(matches=True, rehash=True)
NO_MATCH = Verification(matches=False, rehash=False)


def pepper(pepper_id: str, secret: bytes | None = None) -> KeySettings:
    secret = secret or hashlib.sha256(pepper_id.encode()).digest()
    return KeySettings(id=pepper_id, key=SecretStr(base64.b64encode(secret).decode()))


def hasher_of(*peppers: KeySettings, **settings: int) -> PasswordHasher:
    values = {"hash_workers": 1} | settings
    return PasswordHasher(PasswordSettings.model_validate(values), peppers or [pepper("p1")])


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    hasher = hasher_of()
    yield hasher
    hasher.close()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[Parameters]:
    """Every comparison that Argon2 completed, by its parameters."""
    done: list[Parameters] = []
    verify = argon2id.verify

    def observed(phc: str, mac: bytes, library: Library) -> bool:
        matches = verify(phc, mac, library)
        done.append(extract_parameters(phc))
        return matches

    monkeypatch.setattr(argon2id, "verify", observed)
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "password",
    [
        "x",
        PASSWORD,
        "кошка любит молоко",
        "密码安全很重要",
        "كلمة السر",
        "पासवर्ड",
        "👩‍👩‍👧 🔑" * 20,
        " leading and trailing ",
        "tab\tand\nnewline",
        "x" * 1024,
    ],
)
async def test_password_in_any_script_matches_only_itself(
    hasher: PasswordHasher, password: str
) -> None:
    stored = await hasher.hash(password)
    assert await hasher.verify(stored, password) == MATCH
    assert await hasher.verify(stored, password[:-1] + "?") == NO_MATCH


async def test_stored_hash_encodes_its_parameters(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(PASSWORD)
    scheme, kind, version, cost, salt, digest = stored.phc.split("$")
    assert (scheme, kind, version, cost) == ("v1", "argon2id", "v=19", "m=19456,t=2,p=1")
    assert stored.pepper_id == "p1"
    mac = hmac.digest(pepper("p1").key_bytes(), PASSWORD.encode(), "sha256")
    raw_salt, raw_digest = (base64.b64decode(part + "==") for part in (salt, digest))
    assert len(raw_salt) == 16
    assert raw_digest == hash_secret_raw(
        mac, raw_salt, time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, type=Type.ID
    )


async def test_equal_passwords_have_different_hashes(hasher: PasswordHasher) -> None:
    assert await hasher.hash(PASSWORD) != await hasher.hash(PASSWORD)


async def test_unicode_normal_forms_are_one_password(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("Ångström ﬁne ①②③")
    forms = [
        unicodedata.normalize(form, "Ångström ﬁne ①②③") for form in ("NFC", "NFD", "NFKC", "NFKD")
    ]
    assert len(set(forms)) == 4
    for written in forms:
        assert await hasher.verify(stored, written) == MATCH


async def test_password_is_not_truncated(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("x" * 1023 + "a")
    assert await hasher.verify(stored, "x" * 1023 + "b") == NO_MATCH
    assert await hasher.verify(stored, "x" * 1023) == NO_MATCH


@pytest.mark.slow
@pytest.mark.parametrize(
    "password",
    [
        "",
        "\0",
        "nul\0inside",
        "x" * 1025,
        "é" * 513,
        "half a pair \ud83d",
        # 300 bytes, which NFKC turns into 3300.
        "\ufdfa" * 100,
        # 1026 bytes, which NFKC turns into 1024 or fewer.
        "\ufb01" * 342,
    ],
)
async def test_invalid_password_is_rejected(hasher: PasswordHasher, password: str) -> None:
    stored = await hasher.hash(PASSWORD)
    with pytest.raises(FieldInvalid) as caught:
        await hasher.hash(password)
    assert caught.value.reason is Reason.FIELD_INVALID
    with pytest.raises(FieldInvalid):
        await hasher.verify(stored, password)
    with pytest.raises(FieldInvalid):
        await hasher.verify(None, password)


def test_error_names_given_field() -> None:
    with pytest.raises(FieldInvalid) as caught:
        normalize_password("", "new_password")
    assert [violation.field for violation in caught.value.violations] == ["new_password"]


async def test_verification_requires_pepper(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(PASSWORD)
    other = hasher_of(pepper("p1", b"x" * 32))
    assert await other.verify(stored, PASSWORD) == NO_MATCH
    other.close()


async def test_older_pepper_matches_and_requests_rehash(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(PASSWORD)
    rotated = hasher_of(pepper("p2"), pepper("p1"))
    assert await rotated.verify(stored, PASSWORD) == STALE_MATCH
    assert await rotated.verify(stored, "wrong") == NO_MATCH
    renewed = await rotated.hash(PASSWORD)
    assert renewed.pepper_id == "p2"
    assert await rotated.verify(renewed, PASSWORD) == MATCH
    rotated.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"argon2_memory_kib": 20_000}, {"argon2_time_cost": 3}, {"argon2_parallelism": 2}]
)
async def test_other_parameters_match_and_request_rehash(
    hasher: PasswordHasher, change: dict[str, int]
) -> None:
    stored = await hasher.hash(PASSWORD)
    changed = hasher_of(**change)
    assert await changed.verify(stored, PASSWORD) == STALE_MATCH
    assert await changed.verify(stored, "wrong") == NO_MATCH
    assert await changed.verify(await changed.hash(PASSWORD), PASSWORD) == MATCH
    changed.close()


@pytest.mark.parametrize("setting", ["argon2_memory_kib", "argon2_time_cost"])
def test_parameters_below_minimum_are_rejected(setting: str) -> None:
    floor = getattr(PasswordSettings(), setting)
    with pytest.raises(ValidationError):
        PasswordSettings.model_validate({setting: floor - 1})


async def test_unknown_user_costs_same_work_as_known_one(work: list[Parameters]) -> None:
    hasher = hasher_of(argon2_time_cost=3, argon2_memory_kib=20_000)
    stored = await hasher.hash(PASSWORD)
    assert await hasher.verify(stored, "wrong") == NO_MATCH
    assert await hasher.verify(None, "wrong") == NO_MATCH
    hasher.close()
    of_somebody, of_nobody = work
    assert of_nobody == of_somebody
    assert (of_nobody.time_cost, of_nobody.memory_cost) == (3, 20_000)


PHC = (
    "$argon2id$v=19$m=19456,t=2,p=1$2ZF7sAquB9IoB44AY5sUlA"
    "$nGvtk72lFjt1NsqQj3RjftJoZN8m+xsn9pgqVHkUhN0"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stored",
    [
        PasswordHash("", "p1"),
        PasswordHash("v1", "p1"),
        PasswordHash("v1$", "p1"),
        PasswordHash("v1$argon2id$", "p1"),
        PasswordHash("v1 not a hash", "p1"),
        PasswordHash("v1" + PHC[:-50], "p1"),
        PasswordHash("v1" + PHC.replace("2ZF7", "!!!!"), "p1"),
        PasswordHash("v1" + PHC.replace("argon2id", "argon2i"), "p1"),
        PasswordHash("v1" + PHC.replace("m=19456", "m=1"), "p1"),
        PasswordHash("v1" + PHC + "é", "p1"),
        PasswordHash("v2" + PHC, "p1"),
        PasswordHash("v11" + PHC, "p1"),
        PasswordHash(PHC, "p1"),
        PasswordHash("v1" + PHC, "a pepper that is gone"),
    ],
    ids=lambda stored: f"{stored.phc}-{stored.pepper_id}",
)
async def test_unusable_stored_hash_acts_like_unknown_user_and_is_logged(
    hasher: PasswordHasher, work: list[Parameters], stored: PasswordHash
) -> None:
    with capture_logs() as logs:
        assert await hasher.verify(stored, PASSWORD) == NO_MATCH
    assert len(work) == 1
    assert work[0].memory_cost == 19_456
    (line,) = logs
    assert line["log_level"] == "warning"
    assert line["pepper_id"] == stored.pepper_id
    assert PASSWORD not in str(line)
    assert "nGvtk72lFjt1NsqQj3RjftJoZN8m" not in str(line)


async def test_wrong_password_is_not_logged(hasher: PasswordHasher) -> None:
    stored = await hasher.hash(PASSWORD)
    with capture_logs() as logs:
        await hasher.verify(stored, "wrong")
        await hasher.verify(None, "wrong")
    assert logs == []


async def test_repr_hides_hash(hasher: PasswordHasher) -> None:
    assert "argon2" not in repr(await hasher.hash(PASSWORD))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """The memory of each job that a pool was given, in KiB, and whether it was a slow one."""
    seen: list[tuple[int, bool]] = []
    run = HashPool.run

    async def observed(
        pool: HashPool, work: Callable[[], object], *, memory_kib: int, slow: bool
    ) -> object:
        seen.append((memory_kib, slow))
        return await run(pool, work, memory_kib=memory_kib, slow=slow)

    monkeypatch.setattr(HashPool, "run", observed)
    return seen


async def test_pool_knows_the_memory_of_each_job(
    hasher: PasswordHasher, jobs: list[tuple[int, bool]]
) -> None:
    stored = await hasher.hash(PASSWORD)
    await hasher.verify(stored, PASSWORD)
    await hasher.verify(None, PASSWORD)
    # One that can't be verified costs a comparison with the dummy.
    await hasher.verify(PasswordHash("v1$argon2id$m=x", "p1"), PASSWORD)
    await hasher.run(str)
    current = 19_456
    assert jobs == [(current, False)] * 4 + [(0, False)]


async def test_hash_with_more_memory_than_now_configured_is_slow(
    hasher: PasswordHasher, jobs: list[tuple[int, bool]]
) -> None:
    earlier = hasher_of(argon2_memory_kib=20_000)
    stored = await earlier.hash(PASSWORD)
    earlier.close()
    assert await hasher.verify(stored, PASSWORD) == STALE_MATCH
    assert jobs[-1] == (20_000, True)


SALT = "c2FsdHNhbHRzYWx0c2FsdA"
DIGEST = "ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ISE"


@pytest.mark.parametrize(
    ("text", "memory_kib"),
    [
        (f"$argon2id$v=19$m=65536,t=1,p=1${SALT}${DIGEST}", 65_536),
        (f"$argon2i$v=19$m=32768,t=1,p=4${SALT}${DIGEST}", 32_768),
        # 128 * r * (N + p + 2) bytes.
        (f"$scrypt$ln=15,r=8,p=1${SALT}${DIGEST}", 32_771),
        (f"$firebase-scrypt$ln=15,r=8${SALT}${DIGEST}", 32_771),
        # Less than the current hash, which is computed after it.
        (f"$pbkdf2-sha256$i=1000${SALT}${DIGEST}", 19_456),
        ("$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK", 19_456),
        (f"$argon2id$v=19$m=8,t=1,p=1${SALT}${DIGEST}", 19_456),
    ],
)
async def test_hash_of_another_system_is_slow(
    hasher: PasswordHasher, jobs: list[tuple[int, bool]], text: str, memory_kib: int
) -> None:
    stored = PasswordHash("foreign:" + text, None)
    assert await hasher.verify(stored, PASSWORD) == NO_MATCH
    assert jobs == [(memory_kib, True)]


@pytest.mark.parametrize(
    ("text", "memory_kib"),
    [
        (f"$pbkdf2-sha256$i=1000${SALT}${DIGEST}", 19_456),
        # Little work, but more memory than the hash that wraps it: 128 * r * (N + p + 2) bytes.
        (f"$argon2id$v=19$m=19999,t=1,p=1${SALT}${DIGEST}", 19_999),
    ],
)
async def test_memory_of_a_wrapped_hash_is_that_of_the_larger_one(
    hasher: PasswordHasher, jobs: list[tuple[int, bool]], text: str, memory_kib: int
) -> None:
    weak = hasher.take_over(text, None, accept_weak=True)
    assert isinstance(weak, ForeignHash)
    stored = await hasher.wrap(weak)
    assert await hasher.verify(stored, PASSWORD) == NO_MATCH
    assert jobs == [(19_456, True), (memory_kib, True)]


async def test_lack_of_memory_is_overloaded(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await hasher.hash(PASSWORD)

    def fail(*_: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(argon2id, "compute", fail)
    for attempt in (hasher.hash(PASSWORD), hasher.verify(stored, PASSWORD)):
        with pytest.raises(Overloaded):
            await attempt


@pytest.mark.parametrize("faster", Library)
async def test_faster_library_is_used_and_logged(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch, faster: Library
) -> None:
    used: list[Library] = []
    compute = argon2id.compute

    def measured(_: Parameters) -> dict[Library, float]:
        return {library: 0.0123 if library is faster else 0.0271 for library in Library}

    def note(secret: bytes, salt: bytes, cost: Parameters, library: Library) -> bytes:
        used.append(library)
        return compute(secret, salt, cost, library)

    monkeypatch.setattr(argon2id, "measure", measured)
    monkeypatch.setattr(argon2id, "compute", note)
    with capture_logs() as logs:
        await hasher.choose_library()
    (line,) = logs
    assert (line["event"], line["library"], line["threads"]) == ("password_hashing", faster, 1)
    assert line["cpu_ms"][faster] == 12.3
    stored = await hasher.hash(PASSWORD)
    assert await hasher.verify(stored, PASSWORD) == MATCH
    assert used == [faster, faster]


async def test_machine_too_busy_to_measure_does_not_prevent_the_start(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(_: object) -> None:
        raise Overloaded

    monkeypatch.setattr(argon2id, "measure", starved)
    with capture_logs() as logs:
        await hasher.choose_library()
    assert [line["event"] for line in logs] == ["password_hashing_not_measured"]
    assert await hasher.verify(await hasher.hash(PASSWORD), PASSWORD) == MATCH


async def test_several_lanes_are_argon2_cffi_s(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = hasher_of(argon2_parallelism=2)
    monkeypatch.setattr(argon2id, "measure", lambda _: dict.fromkeys(Library, 0.01))
    with capture_logs() as logs:
        await hasher.choose_library()
    assert logs[0]["library"] == "argon2-cffi"
    hasher.close()


def test_memory_of_all_hashes_fits_the_largest_one() -> None:
    with pytest.raises(ValidationError, match="hash_memory_mib of at least 293"):
        PasswordSettings(argon2_memory_kib=300_000)
    PasswordSettings(argon2_memory_kib=300_000, hash_memory_mib=293)
    # The costliest hash that an import accepts.
    assert foreign_forms.parse(f"$scrypt$ln=15,r=64,p=1${SALT}${DIGEST}").memory_kib <= 272 * 1024
    with pytest.raises(ValidationError):
        PasswordSettings(hash_memory_mib=271)
