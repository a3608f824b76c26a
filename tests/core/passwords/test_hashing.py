"""Passwords are hashed as documented, with the same work whatever is stored."""

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Iterator

import pytest
from argon2 import Parameters, extract_parameters
from argon2.low_level import Type, hash_secret_raw
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from authsvc.config import KeySettings, PasswordSettings
from authsvc.core.passwords import argon2id
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.hashing import (
    PasswordHash,
    PasswordHasher,
    Verification,
    normalize_password,
)
from authsvc.errors import FieldInvalid, Reason

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
