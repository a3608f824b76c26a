"""Hashes from other systems: compared as there, and rejected if too costly."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace

import bcrypt
import pytest
from argon2.low_level import Type, hash_secret

from authsvc.core.passwords.foreign_forms import parse
from authsvc.core.passwords.foreign_hashes import (
    FirebaseParameters,
    HashRefused,
    firebase_hash,
)
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, Verification
from tests.support.accounts import PEPPERS, cheap_passwords

PASSWORD = "Пароль ﬁ – 1843"  # with a ligature that NFKC would decompose
RAW = PASSWORD.encode()
SALT = b"0123456789abcdef"
# The example that Firebase publishes with its own implementation.
FIREBASE = FirebaseParameters(
    signer_key=b64decode(
        "jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA=="
    ),
    salt_separator=b64decode("Bw=="),
    rounds=8,
    mem_cost=14,
)
FIREBASE_SALT = "42xEC+ixf3L2lw=="
FIREBASE_HASH = (
    "lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ=="
)


def b64(value: bytes) -> str:
    return b64encode(value).decode().rstrip("=")


def padded(value: bytes) -> str:
    return b64encode(value).decode()


def argon2(kind: Type, version: int = 19) -> str:
    return hash_secret(RAW, SALT, 2, 64, 2, 32, kind, version).decode()


def made_by_bcrypt(prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(RAW, bcrypt.gensalt(4)).replace(b"2b", prefix, 1).decode()


def made_by_scrypt(salt: bytes = SALT) -> bytes:
    return hashlib.scrypt(RAW, salt=salt, n=1024, r=8, p=2)


def made_by_pbkdf2(algorithm: str, salt: bytes = SALT, length: int | None = None) -> bytes:
    return hashlib.pbkdf2_hmac(algorithm, RAW, salt, 1000, length)


SALT64 = b64(SALT)
HASHES = {
    "argon2id": argon2(Type.ID),
    "argon2i": argon2(Type.I),
    "argon2d": argon2(Type.D),
    "argon2id of version 16": argon2(Type.ID, 16),
    "argon2 by Django": "argon2" + argon2(Type.ID),
    "bcrypt 2b": made_by_bcrypt(),
    "bcrypt 2a": made_by_bcrypt(b"2a"),
    "bcrypt 2y": made_by_bcrypt(b"2y"),
    "bcrypt by Django": "bcrypt$" + made_by_bcrypt(),
    "scrypt": f"$scrypt$ln=10,r=8,p=2${SALT64}${b64(made_by_scrypt())}",
    "scrypt by Django": f"scrypt$1024$saltsalt$8$2${padded(made_by_scrypt(b'saltsalt'))}",
    "pbkdf2": f"$pbkdf2-sha256$i=1000,l=32${SALT64}${b64(made_by_pbkdf2('sha256'))}",
    "pbkdf2 without length": f"$pbkdf2-sha512$i=1000${SALT64}${b64(made_by_pbkdf2('sha512'))}",
    "pbkdf2 of another length": (
        f"$pbkdf2-sha1$i=1000,l=16${SALT64}${b64(made_by_pbkdf2('sha1', length=16))}"
    ),
    "pbkdf2 by passlib": (
        f"$pbkdf2-sha256$1000${SALT64}${b64(made_by_pbkdf2('sha256')).replace('+', '.')}"
    ),
    "pbkdf2-sha1 by passlib": f"$pbkdf2$1000${SALT64}${b64(made_by_pbkdf2('sha1'))}",
    "pbkdf2 by Django": (
        f"pbkdf2_sha256$1000$saltsalt${padded(made_by_pbkdf2('sha256', b'saltsalt'))}"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", HASHES.values(), ids=HASHES)
def test_foreign_hash_matches_only_its_password(text: str) -> None:
    read = parse(text)
    for found in (read, parse(read.text)):
        assert found.matches(RAW)
        assert not found.matches(RAW + b"x")
        assert not found.matches(b"")
        assert repr(found).count("$") == 0


def test_bcrypt_compares_first_72_bytes() -> None:
    long = b"x" * 100
    found = parse(bcrypt.hashpw(long[:72], bcrypt.gensalt(4)).decode())
    assert found.matches(long)
    assert found.matches(long[:72])
    assert not found.matches(long[:71])


def test_firebase_matches_published_example() -> None:
    found = firebase_hash(FIREBASE, FIREBASE_SALT, FIREBASE_HASH)
    assert found.matches(b"user1password")
    assert not found.matches(b"user1passworD")
    assert parse(found.text).matches(b"user1password")


def test_firebase_stores_nothing_of_signer_key() -> None:
    found = firebase_hash(FIREBASE, FIREBASE_SALT, FIREBASE_HASH)
    for secret in (FIREBASE.signer_key, b64decode(FIREBASE_HASH)):
        assert b64(secret)[:16] not in found.text
    assert padded(FIREBASE.signer_key) not in repr(FIREBASE)


@pytest.mark.parametrize(
    ("change", "salt", "digest"),
    [
        ({"signer_key": b"short"}, FIREBASE_SALT, FIREBASE_HASH),
        ({"mem_cost": 30}, FIREBASE_SALT, FIREBASE_HASH),
        ({"mem_cost": -1}, FIREBASE_SALT, FIREBASE_HASH),
        ({"rounds": 0}, FIREBASE_SALT, FIREBASE_HASH),
        ({"rounds": 10**9}, FIREBASE_SALT, FIREBASE_HASH),
        ({}, "", FIREBASE_HASH),
        ({}, "AA==", FIREBASE_HASH),
        ({}, b64(bytes(129)), FIREBASE_HASH),
        ({}, FIREBASE_SALT, "no base64 at all"),
        ({}, FIREBASE_SALT, FIREBASE_HASH[:-4]),
    ],
)
def test_invalid_firebase_parameters_are_rejected(
    change: dict[str, bytes | int], salt: str, digest: str
) -> None:
    with pytest.raises(HashRefused):
        firebase_hash(replace(FIREBASE, **change), salt, digest)  # type: ignore[arg-type]


HASH64 = b64(bytes(range(32)))
DIGEST64 = padded(bytes(range(32)))
ARGON2 = f"$argon2id$v=19$m=64,t=2,p=2${SALT64}${HASH64}"
BCRYPT = "$2b$04$" + "." * 53
AT_THE_CAPS = {
    "argon2 memory": ARGON2.replace("m=64,t=2", "m=262144,t=4"),
    "argon2 passes": ARGON2.replace("t=2", "t=10"),
    "argon2 lanes": ARGON2.replace("m=64,t=2,p=2", "m=128,t=2,p=16"),
    "bcrypt": BCRYPT.replace("$04$", "$14$"),
    "scrypt": f"$scrypt$ln=18,r=8,p=1${SALT64}${HASH64}",
    "scrypt lanes": f"$scrypt$ln=14,r=8,p=16${SALT64}${HASH64}",
    "pbkdf2": f"$pbkdf2-sha256$i=2000000${SALT64}${HASH64}",
    "pbkdf2 of many digests": f"$pbkdf2-sha1$i=1000000${SALT64}${HASH64}",
    "salt of 8 bytes": ARGON2.replace(SALT64, b64(bytes(8))),
    "salt of 128 bytes": ARGON2.replace(SALT64, b64(bytes(128))),
    "hash of 128 bytes": ARGON2.replace(HASH64, b64(bytes(128))),
    "hash of 16 bytes": ARGON2.replace(HASH64, b64(bytes(16))),
}
BEYOND = {
    "argon2 memory": ARGON2.replace("m=64", "m=262145"),
    "argon2 memory and passes": ARGON2.replace("m=64,t=2", "m=262144,t=5"),
    "argon2 passes": ARGON2.replace("t=2", "t=11"),
    "argon2 lanes": ARGON2.replace("m=64,t=2,p=2", "m=4096,t=2,p=17"),
    "argon2 of 4 TiB": ARGON2.replace("m=64", "m=4294967295"),
    "bcrypt": BCRYPT.replace("$04$", "$15$"),
    "bcrypt of centuries": BCRYPT.replace("$04$", "$31$"),
    "scrypt memory": f"$scrypt$ln=18,r=9,p=1${SALT64}${HASH64}",
    "scrypt exponent": f"$scrypt$ln=99,r=8,p=1${SALT64}${HASH64}",
    "scrypt lanes": f"$scrypt$ln=10,r=8,p=17${SALT64}${HASH64}",
    "scrypt lanes and memory": f"$scrypt$ln=18,r=8,p=2${SALT64}${HASH64}",
    "scrypt block": f"$scrypt$ln=2,r=65,p=1${SALT64}${HASH64}",
    "scrypt by Django": f"scrypt$1073741824$saltsalt$8$1${DIGEST64}",
    "firebase": f"$firebase-scrypt$ln=20,r=8${SALT64}${HASH64}",
    "pbkdf2": f"$pbkdf2-sha256$i=2000001${SALT64}${HASH64}",
    "pbkdf2 of SHA-512": f"$pbkdf2-sha512$i=1000001${SALT64}${HASH64}",
    "pbkdf2 of many digests": f"$pbkdf2-sha1$i=1000001${SALT64}${HASH64}",
    "pbkdf2 by Django": f"pbkdf2_sha256$9999999999$saltsalt${DIGEST64}",
}
MALFORMED = {
    "nothing": "",
    "plain text": "Analytical-Engine-1843",
    "MD5": "5f4dcc3b5aa765d61d8327deb882cf99",
    "crypt": "$6$rounds=5000$saltsalt$" + "x" * 86,
    "our own without its pepper": "v1" + ARGON2,
    "the tag that it is stored with": "foreign:" + ARGON2,
    "NUL": ARGON2 + "\0",
    "NUL within": ARGON2.replace("m=", "\0m="),
    "line break": ARGON2 + "\n",
    "space": " " + ARGON2,
    "1 MB": ARGON2 + "A" * 1_000_000,
    "1 MB of dollars": "$" * 1_000_000,
    "negative memory": ARGON2.replace("m=64", "m=-64"),
    "zero passes": ARGON2.replace("t=2", "t=0"),
    "leading zero": ARGON2.replace("t=2", "t=02"),
    "plus sign": ARGON2.replace("t=2", "t=+2"),
    "Arabic digits": ARGON2.replace("t=2", "t=٢"),
    "number of 4300 digits": ARGON2.replace("t=2", "t=" + "9" * 400),
    "other order": ARGON2.replace("m=64,t=2", "t=2,m=64"),
    "twice": ARGON2.replace("t=2", "t=2,t=2"),
    "argon2 version": ARGON2.replace("v=19", "v=20"),
    "argon2 kind": ARGON2.replace("argon2id", "argon2x"),
    "argon2 with too little memory": ARGON2.replace("m=64", "m=15"),
    "salt of 7 bytes": ARGON2.replace(SALT64, b64(bytes(7))),
    "salt of 129 bytes": ARGON2.replace(SALT64, b64(bytes(129))),
    "no salt": ARGON2.replace(SALT64, ""),
    "hash of 15 bytes": ARGON2.replace(HASH64, b64(bytes(15))),
    "hash of 129 bytes": ARGON2.replace(HASH64, b64(bytes(129))),
    "no hash": ARGON2.replace(HASH64, ""),
    "cut hash": ARGON2[:-1],
    "other last bits": ARGON2.replace(HASH64, HASH64[:-1] + chr(ord(HASH64[-1]) + 1)),
    "too much padding": ARGON2 + "==",
    "base64 for addresses": ARGON2.replace(SALT64, "_-" * 11),
    "bcrypt 2x": BCRYPT.replace("2b", "2x"),
    "bcrypt cost 3": BCRYPT.replace("$04$", "$03$"),
    "bcrypt cost 99": BCRYPT.replace("$04$", "$99$"),
    "bcrypt without leading zero": BCRYPT.replace("$04$", "$4$"),
    "bcrypt cut": BCRYPT[:-1],
    "scrypt of no power": f"scrypt$1000$saltsalt$8$1${DIGEST64}",
    "scrypt of one": f"scrypt$1$saltsalt$8$1${DIGEST64}",
    "scrypt of too small a block": f"$scrypt$ln=16,r=1,p=1${SALT64}${HASH64}",
    "scrypt of zero": f"$scrypt$ln=0,r=8,p=1${SALT64}${HASH64}",
    "scrypt salt of 7": f"scrypt$1024$saltsal$8$1${DIGEST64}",
    "pbkdf2 of MD5": f"$pbkdf2-md5$i=1000${SALT64}${HASH64}",
    "pbkdf2 of another length than said": f"$pbkdf2-sha256$i=1000,l=31${SALT64}${HASH64}",
    "pbkdf2 salt of 129": f"pbkdf2_sha256$1000${'s' * 129}${DIGEST64}",
    "pbkdf2 salt with NUL": f"pbkdf2_sha256$1000$salt\0salt${DIGEST64}",
    "pbkdf2 without iterations": f"pbkdf2_sha256$$saltsalt${DIGEST64}",
}


@pytest.mark.parametrize("text", AT_THE_CAPS.values(), ids=AT_THE_CAPS)
def test_hash_at_maximum_cost_is_accepted(text: str) -> None:
    assert parse(text).text == text


@pytest.mark.parametrize("text", BEYOND.values(), ids=BEYOND)
def test_too_costly_hash_is_rejected(text: str) -> None:
    with pytest.raises(HashRefused, match="costs more"):
        parse(text)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_hash_is_rejected_without_showing_it(text: str) -> None:
    with pytest.raises(HashRefused) as refused:
        parse(text)
    assert SALT64 not in str(refused.value)
    assert HASH64[:8] not in str(refused.value)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    hasher = PasswordHasher(cheap_passwords(), PEPPERS)
    yield hasher
    hasher.close()


@pytest.mark.parametrize("text", HASHES.values(), ids=HASHES)
async def test_hasher_verifies_foreign_hash_and_requests_rehash(
    hasher: PasswordHasher, text: str
) -> None:
    # A strong hash looks the same, but would take too long here.
    stored = PasswordHash("foreign:" + parse(text).text, None)
    assert (await hasher.verify(stored, PASSWORD)) == Verification(matches=True, rehash=True)
    assert not (await hasher.verify(stored, PASSWORD.replace("ﬁ", "fi"))).matches
    assert not (await hasher.verify(stored, PASSWORD + "x")).matches
    assert text not in repr(stored)


async def test_wrong_password_for_foreign_hash_also_costs_dummy_hash(
    hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[PasswordHash] = []
    compare = hasher._compare

    def observed(stored: PasswordHash, password: str, normalized: str) -> Verification:
        compared.append(stored)
        return compare(stored, password, normalized)

    monkeypatch.setattr(hasher, "_compare", observed)
    await hasher.verify(PasswordHash("foreign:" + made_by_bcrypt(), None), "wrong")
    await hasher.verify(None, "wrong")
    assert compared == [hasher._dummy, hasher._dummy]


@pytest.mark.parametrize("text", ["foreign:", "foreign:$2b$31$" + "." * 53, "", "$", BCRYPT[:-1]])
async def test_damaged_stored_hash_matches_nothing(hasher: PasswordHasher, text: str) -> None:
    assert not (await hasher.verify(PasswordHash(text, None), PASSWORD)).matches


async def test_own_hash_is_imported_only_with_its_pepper(hasher: PasswordHasher) -> None:
    made = await hasher.hash(PASSWORD)
    assert hasher.take_over(made.portable, made.pepper_id) == made
    for pepper_id in (None, "p2", ""):
        with pytest.raises(HashRefused, match="pepper"):
            hasher.take_over(made.portable, pepper_id)
    with pytest.raises(HashRefused, match="pepper"):
        hasher.take_over(made_by_bcrypt(), "p1")


@pytest.mark.parametrize("text", ["v1$", "v1$2b$04$", "v1" + argon2(Type.I), "v1$argon2id$x"])
def test_damaged_own_hash_is_rejected(hasher: PasswordHasher, text: str) -> None:
    with pytest.raises(HashRefused):
        hasher.take_over(text, "p1")


def test_own_hash_at_configured_cost_is_accepted() -> None:
    costly = PasswordHasher(cheap_passwords(argon2_memory_kib=1_048_576), PEPPERS)
    phc = f"$argon2id$v=19$m=1048576,t=1,p=1${SALT64}${HASH64}"
    assert costly.take_over("v1" + phc, "p1") == PasswordHash("v1" + phc, "p1")
    with pytest.raises(HashRefused, match="costs more"):
        costly.take_over("v1" + phc.replace("t=1", "t=9"), "p1")
    costly.close()
