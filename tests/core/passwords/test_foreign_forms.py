# ruff: noqa: E501 - hashes are not cut
"""Hashes as other systems write them are compared as there; the weak ones are wrapped."""

import base64
from collections.abc import Iterator

import bcrypt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authsvc.config import KeySettings
from authsvc.core.passwords import foreign_schemes
from authsvc.core.passwords.foreign_forms import parse
from authsvc.core.passwords.foreign_hashes import HashRefused
from authsvc.core.passwords.foreign_schemes import ForeignHash
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, Verification
from tests.support.accounts import PEPPERS, cheap_passwords, key

PASSWORD = "Пароль ﬁ – 1843"
RAW = PASSWORD.encode()
# Made by the libraries that they are named after, with the lowest cost that is not weak. Exceptions:
# the last two follow their documented layouts, and WordPress 6.8's was made by PHP as there.
STRONG = {
    "Werkzeug, scrypt": (
        "scrypt:4096:8:1$NVbFgNeR9VosXzhn$b1b4df456cd45965fa5fa4e62331f925920c1b8979599cf60f6"
        "c5ff2cc7a63ef259f70c7b83df3538c1fedcff0642aa0c04477cbfea115b752e66a110b5f12a7"
    ),
    "Werkzeug, PBKDF2": (
        "pbkdf2:sha256:40000$ta62lCqlgjxpwGHx$63bd6bc2bd1c99803ca6315dce3490b58c8e57cc5519f60"
        "18597c8b4fb968bc8"
    ),
    "Django, PBKDF2": (
        "pbkdf2_sha256$40000$ZQZWQaUrEVge86ISTPW17d$hpdLX8WzWgUMKxB2x/64wtKqXFQUIstfcbDluK98RYA="
    ),
    "Django, PBKDF2 of SHA-1": "pbkdf2_sha1$40000$wkcsy32824foBqFvq9Jkhz$OU1nRonhvedANbTHtNWW2dJl0TM=",
    "Django, Argon2": (
        "argon2$argon2id$v=19$m=10240,t=2,p=8$UDdtYjdTU0JFQzFDaldOMnNzNzVSbA$GKJLauLAOBveNLWO"
        "m3/IdRvZghJFIunMEmMospE98fs"
    ),
    "Django, bcrypt of SHA-256": "bcrypt_sha256$$2b$08$LQhyT9wvFijbYlOD2DMrCe1JisuBaaaLc0KsFTqm3DhMdyU3Rgdse",
    "Django, bcrypt": "bcrypt$$2b$08$ezFbkg/WhnnfW/8GwTV06uXNl.hxjqWN5u8VAwSvP.hm6tMGu.98u",
    "Django, scrypt": (
        "scrypt$4096$ygOnmpEX3hvxPf7j80FLg8$8$1$S4hLBL6EmmjoiTNbxsicZw11MY1DFK5YePz1ckd8sQLbV"
        "cerJEoEzOi+8+gUv+cyWgQsxFCVMHgsIImccrbhZA=="
    ),
    "passlib, bcrypt_sha256": (
        "$bcrypt-sha256$v=2,t=2b,r=8$Z710vD6F1KrvhZ/y5DBWD.$yFi4ILt5EGJUsoSwMVgAYHsAiWfTgwm"
    ),
    "passlib, pbkdf2_sha1": "$pbkdf2$40000$lLI2ZgwBgJCythYipPQ.Bw$dyjBnOyIjtVWeWQkqjnXSJ/B5VI",
    "passlib, pbkdf2_sha512": (
        "$pbkdf2-sha512$16000$ECKkVOq9N6YUIiQkpHSOcQ$wJG0ES6yaRjZMYU8oa.KjlDiKXVtDsROLL0fUHF."
        "oefQNHQNIjGpkpn8.iK.eirquIGRJ6FLGVn8ayXZfS11aw"
    ),
    "passlib, scrypt": (
        "$scrypt$ln=12,r=8,p=1$hZByjrGW8v6fc67VWuu99w$ver1vVjsJrjC0+zpeo8uJ5WJu3xJyC6yF88j5rbScqc"
    ),
    "passlib, ldap_pbkdf2_sha1": "{PBKDF2}40000$FQKAsDYGgNB6rxWiNIawlg$2DahlUZgR7GhEjHnFTG5NiBYUVw",
    "passlib, ldap_pbkdf2_sha256": (
        "{PBKDF2-SHA256}40000$VYrR.v8fI4SQMkaIkbIWQg$elnPRkGah/WqZ1zkFb0wtK/DVNACQdNQCC311SJeB3E"
    ),
    "passlib, ldap_pbkdf2_sha512": (
        "{PBKDF2-SHA512}16000$CIGw1jpH6N1ba81ZS0mptQ$YBnpP1OgcKPOPZwcXh39RSfypuvKyN18aNAAdKRJ"
        "JPjV4R.tmSw7UyhaqqOdwVc7YH29oOtExNVd6yFngRYcTg"
    ),
    "passlib, bcrypt_sha256 of version 1": "$bcrypt-sha256$2b,8$BKz.OG9tzzjjY1mEMHtn4e$.bbvwxn1Q//wT8CJQnvXJIfwcz..PzO",
    "passlib, argon2": (
        "$argon2id$v=19$m=10240,t=2,p=2$BSBkLIVQag2hFKL0/l+rlQ$4yO5MRqNoT6v2AxGwXY5N1hTZR16RV"
        "ghGnu3JvdOxTk"
    ),
    "Laravel, bcrypt": "$2y$08$G1oWqcm05GoRRLz0.o1s9OCNPsiqXNAK9yQUrq9mEqx2y3tMZG3/e",
    "Laravel, Argon2id": (
        "$argon2id$v=19$m=10240,t=2,p=1$M0RjOXFkTWt4dGF1QWY4eg$P+ujJoSNTBNwpFheIYhH9TGAkezBJD"
        "XB55Pr78aI0dE"
    ),
    "WordPress 6.8": "$wp$2y$08$T/vpcBwkCyoMkVgF6KtsAOBmGmnnSdSl9WIBa3HYP71j7GGTUIp0i",
    "Symfony, native": "$2y$08$jYaZcXNv48LKcaqnnBIOhOkDzAw.2288J738cUj5KkksaU4qVGcGm",
    "Symfony, Sodium": (
        "$argon2id$v=19$m=10240,t=3,p=1$+f+x7Qrye7wkkTk0SmkQ7g$Q7oPILyn8e7VKyot1frwNOb6+3rK64"
        "M0UzyTPOgxruU"
    ),
    "Devise": "$2a$08$B74lhHARz1epCn8HKr8b/OrSNY085wBbsDthMLGz7naetdaV6sWc.",
    "ASP.NET Identity 3 of .NET 8": (
        "AQAAAAIAAD6AAAAAEOyaG8Wvj7FUi7BZroNstvEi7b+qCcr9tRA9IYxQIHu5VhiXx17mABsu740zOFbH/A=="
    ),
    "389 Directory Server": (
        "{PBKDF2_SHA256}AACcQCqJSp20gZhNCjqZ2FKQDELE8fqTCkOhiDAFe+5auxyjC9kHqsVRNZHbU+o4UbVG+"
        "+mEjISMGVFowcOupezGvIuk3V4wKqkt2hCW4+Yul660zH7h/aCbnUdsw2K3tDCmPEMGQRURWJzrqPpLcY5jC"
        "bvGj9d1GynYvW1udn44IlW7XSafgI1/VreX8RzwJA8UfdpCWt7QCCeN7Nma9BiV7XA+PzVa6EeK053Dn97/d"
        "iymPa+kcQIRfx360WiuritWKHGNduKmSw76O5mlzrg10dBoWaXoLmZAi94qJ/wNjOFqIJgZnHsuKdn865pNQ"
        "7KWSccDHLiBPp4R1Gipdq7VGri3Lqk5jBZU1+SixNoGo/R+JbRDPPHNz6cqvMQYYL7xNihx/TRsRdhRB2+VO"
        "htwjeBJr93xvUEQhAxTXRlVm3aA"
    ),
}
# By the same libraries: cheap to guess, mostly as they are by default.
WEAK = {
    "Werkzeug, PBKDF2 of SHA-1": "pbkdf2:sha1:1000$tTtZWPou$cd83f43a8e6458a59bfdaff9c0a95488ab129f56",
    "Django, MD5": "md5$m3lCzWagFb76NqMTHhhQNW$a4c59fe230345c31cf6258adaee262e4",
    "passlib, pbkdf2_sha256": (
        "$pbkdf2-sha256$29000$de79f69VKoWQEmLsHeO8tw$87qpt1ie/9oQ1z1oVjYZg2scKspZNIfsT6jyom2ZTag"
    ),
    "passlib, phpass": "$P$6.PcLMj5xt2UP49Ur9JeQRbBM6DNZB.",
    "passlib, ldap_salted_sha1": "{SSHA}bG5r02VJ3bC7VbPLoWnrlZR5u0CVck7p",
    "passlib, ldap_sha1": "{SHA}FSO1kE+ZlqwXleHfMosk3jYxdOE=",
    "passlib, ldap_md5": "{MD5}VJtHz4tUq5AZNIdLD0e9ig==",
    "passlib, ldap_salted_md5": "{SMD5}UtLK1C6fosdHByAn3E7RoQqhFEI=",
    "passlib, ldap_salted_sha256": "{SSHA256}or5XCND1ZtmkD/+wNRKQVZWa2dPFWWnlBkhQiOtkxBXXmpPSmpPSOg==",
    "passlib, ldap_salted_sha512": (
        "{SSHA512}PcLA9fuQAVjaSgWJEksMwRIJaJ0CX2WjAh9jpGF6BEu8uBtNVrZc/C7P09zcGPKaG5bK1MhBx4Q"
        "kA1zpwApsSF8rJWTsnbMW"
    ),
    "passlib, atlassian_pbkdf2_sha1": "{PKCS5S2}jBFizFkrBUCIsTaGEKJ0brBPe+aKlCnQ7fgeDRZyanvtZYoSWhTiYHIRVGGfQF47",
    "passlib, django_salted_sha1": "sha1$o4hPRshrvro6$9d6e3705259e635c488cdfafd240f5b9dd4e25aa",
    "WordPress, phpass": "$P$BiLffK90I.pkd4pR0MNcjsqOLZ9iRO/",
    "ASP.NET Identity 3": (
        "AQAAAAEAACcQAAAAEBbnvicc5eJLgHr1HqJQdo8Q3T7mYua73zrKT2wPPiVuEykrbm2jktceb5BO5lanpw=="
    ),
    "ASP.NET Identity 2": "AJEpJhkylE7e+ReUlxeknspzn1QZ1l3kVn6tJHSR8rBxyO8gFoYdFqiqHvIo5EnFsw==",
}
# The examples in the documentation of Spring Security, of the word "password".
SPRING = {
    "bcrypt": "{bcrypt}$2a$10$dXJ3SW6G7P50lGmMkkmwe.20cQQubK3.HZWzG3YB1tlRy.fqvM/BG",
    "PBKDF2": (
        "{pbkdf2}5d923b44a6d129f3ddf3e3c8d29412723dcbde72445e8ef6bf3b508fbf17fa4ed4d6b99ca763d8dc"
    ),
    "scrypt": (
        "{scrypt}$e0801$8bWJaSu2IKSn9Z9kM+TPXfOc/9bdYSrN1oD9qfVThWEwdRTnO7re7Ei+fUZRJ68k9lTyuTeUp4o"
        "f4g24hHnazw==$OAOec05+bXxvuu/1qZ6NUR+xQYvYv7BeL1QxwRpY5Pc="
    ),
    "SHA-256": (
        "{sha256}97cde38028ad898ebc02e690819fa220e88c62e0699403e94fff291cfffaf8410849f27605abcbc0"
    ),
}
ARGON2 = STRONG["passlib, argon2"]
# Other names that systems put before a form of their own.
NAMED = {
    "{argon2}" + ARGON2: RAW,
    "{argon2@SpringSecurity_v5_8}" + ARGON2: RAW,
    "{ARGON2}" + ARGON2: RAW,
    "{CRYPT}" + STRONG["Laravel, bcrypt"]: RAW,
    "{BLF-CRYPT}" + STRONG["Laravel, bcrypt"]: RAW,
    "{ldap}" + WEAK["passlib, ldap_salted_sha1"]: RAW,
    # Without a salt, in hex as Spring and Django write it.
    "{MD5}5f4dcc3b5aa765d61d8327deb882cf99": b"password",
    "{SHA-256}5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8": b"password",
    "{SHA}5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8": b"password",
    "md5$$5f4dcc3b5aa765d61d8327deb882cf99": b"password",
}


def check(found: ForeignHash, password: bytes) -> None:
    assert found.matches(password)
    assert not found.matches(password + b"x")
    assert parse(found.text) == found
    # The parameters hold all but the digest.
    assert parse(found.parameters).compute(password) == found.digest
    assert not parse(found.parameters).matches(password)
    assert "digest" not in repr(found)
    assert "salt=" not in repr(found)


@pytest.mark.parametrize("text", STRONG.values(), ids=STRONG)
def test_hash_is_compared_as_by_its_system(text: str) -> None:
    found = parse(text)
    check(found, RAW)
    assert not found.weak


@pytest.mark.parametrize("text", WEAK.values(), ids=WEAK)
def test_cheap_or_unsalted_hash_is_weak(text: str) -> None:
    found = parse(text)
    check(found, RAW)
    assert found.weak


@pytest.mark.parametrize("text", SPRING.values(), ids=SPRING)
def test_documented_hash_of_spring_matches(text: str) -> None:
    check(parse(text), b"password")


@pytest.mark.parametrize("text", NAMED)
def test_name_before_a_hash_is_understood(text: str) -> None:
    check(parse(text), NAMED[text])


def test_salt_of_spring_follows_with_its_braces() -> None:
    salted = foreign_schemes.Digest(algorithm="md5", salt=b"{pepper}", digest=b"", salt_first=False)
    check(parse("{MD5}{pepper}" + salted.compute(b"password").hex()), b"password")


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
def test_unused_bits_of_bcrypt_do_not_count(prefix: str) -> None:
    made = bcrypt.hashpw(RAW, bcrypt.gensalt(4)).decode().replace("2b", prefix, 1)
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    salt_end, hash_end = (alphabet.index(made[at]) for at in (28, 59))
    for unused in range(1, 4):
        text = made[:28] + alphabet[salt_end | unused * 5] + made[29:59]
        text += alphabet[hash_end | unused]
        assert text != made
        found = parse(text)
        check(found, RAW)
        assert found == parse(made)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{noop}password", "plain text"),
        ("{CLEARTEXT}password", "plain text"),
        ("$6$rounds=656000$nJEdPP3m.kR1gm.Q$IbR4cb4sSMtb48", "crypt"),
        ("{CRYPT}$5$salt$hash", "crypt"),
        ("$1$HPN6mqYz$/2LL1ufgFXJyJGDNaxk/J.", "crypt"),
        ("$2x$10$" + "." * 53, "faulty"),
        ("5f4dcc3b5aa765d61d8327deb882cf99", "bare digest"),
        ("{PBKDF2-SHA256}9999999999$AAAAAAAAAAA$" + "A" * 43, "costs more"),
        ("pbkdf2:sha512:1000001$saltsalt$" + "00" * 64, "costs more"),
        ("scrypt:1048576:8:1$saltsalt$" + "00" * 64, "costs more"),
        ("{scrypt}$ff0801$" + "A" * 22 + "$" + "A" * 43, "costs more"),
        ("$scrypt$ln=1048576,r=8,p=1$" + "A" * 22 + "$" + "A" * 43, "costs more"),
        ("$wp$2y$15$" + "." * 53, "costs more"),
        ("$bcrypt-sha256$v=2,t=2b,r=15$" + "." * 22 + "$" + "." * 31, "costs more"),
        ("$P$I" + "a" * 30, "costs more"),
        ("$digest-md5$i=10001,s=prefix$$" + "A" * 22, "costs more"),
        (
            base64.b64encode(b"\x01\0\0\0\1\xff\xff\xff\xff\0\0\0\x10" + bytes(48)).decode(),
            "costs more",
        ),
        (base64.b64encode(b"\x01\0\0\0\1\0\0\0\1\xff\xff\xff\xff" + bytes(48)).decode(), "length"),
        (base64.b64encode(b"\x01\0\0\0\7\0\0\0\1\0\0\0\x10" + bytes(48)).decode(), "unknown"),
        ("AQAAAAAA", "unknown"),
        ("{SSHA}" + base64.b64encode(bytes(20)).decode(), "length"),
        ("{SHA}" + base64.b64encode(bytes(24)).decode(), "length"),
        ("{SMD5}AAAA", "length"),
        ("{PBKDF2_SHA256}AAAA", "salt"),
        ("{PKCS5S2}AAAA", "salt"),
    ],
)
def test_refusal_says_why(text: str, reason: str) -> None:
    with pytest.raises(HashRefused, match=reason):
        parse(text)


_PIECES = st.sampled_from(
    [
        *("$", "$2b$", "$2y$10$", "$argon2id$v=19$", "m=4096,t=3,p=1", "$scrypt$ln=14,r=8,p=1"),
        *("pbkdf2:sha256:", "pbkdf2_sha256$", "{PBKDF2-SHA256}", "{SSHA}", "{scrypt}", "{pbkdf2}"),
        *(
            "{sha256}",
            "{MD5}",
            "{salt}",
            "AQAAAAE",
            "$P$B",
            "$H$9",
            "$wp",
            "bcrypt_sha256$",
            "==",
            "=",
        ),
        *("$bcrypt-sha256$v=2,t=2b,r=12$", "$digest-sha1$i=1,s=suffix$", "sha1$", "$firescrypt$"),
        *("{PBKDF2_SHA256}", "{PKCS5S2}", "scrypt:16384:8:1$", "$e0801", "99999999999", "0", "\n"),
    ]
)
_RANDOM_HASHES = st.one_of(
    st.text(max_size=80),
    st.lists(st.one_of(_PIECES, st.text("./+=0123456789abcdefABCDEF", max_size=64))).map("".join),
    st.builds(
        lambda text, at, put, cut: text[: at % len(text)] + put + text[at % len(text) + cut :],
        st.sampled_from([*STRONG.values(), *WEAK.values(), *SPRING.values()]),
        st.integers(0, 500),
        st.one_of(st.just(""), st.sampled_from("$./0z9A=,{}:\0é"), _PIECES),
        st.integers(0, 3),
    ),
)


@settings(max_examples=200, deadline=None)
@given(text=_RANDOM_HASHES)
@example(text="A" * 2_000)
@example(text="$digest-md5$i=1,s=prefix$" + "A" * 300 + "$" + "A" * 22)
def test_any_text_is_a_bounded_hash_or_refused_with_one_line(text: str) -> None:
    try:
        found = parse(text)
    except HashRefused as refused:
        message = str(refused)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert text not in message or len(text) < 4
        return
    assert found.memory_kib <= 263_000
    assert parse(found.text) == found
    assert parse(found.parameters).parameters == found.parameters
    if found.weak:
        # Few enough to be computed here.
        assert len(found.compute(RAW)) == len(found.digest)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    hasher = PasswordHasher(cheap_passwords(), PEPPERS)
    yield hasher
    hasher.close()


@pytest.mark.parametrize("text", WEAK.values(), ids=WEAK)
async def test_weak_hash_is_wrapped_so_that_none_lies_bare(
    hasher: PasswordHasher, text: str
) -> None:
    with pytest.raises(HashRefused, match="weak"):
        hasher.take_over(text, None)
    weak = hasher.take_over(text, None, accept_weak=True)
    assert isinstance(weak, ForeignHash)
    stored = await hasher.wrap(weak)
    assert stored.pepper_id == "p1"
    assert stored.phc.startswith("wrapped:")
    for digest in (base64.b64encode(weak.digest).decode(), weak.digest.hex(), text, weak.text):
        assert digest.rstrip("=")[-16:] not in stored.phc
    assert await hasher.verify(stored, PASSWORD) == Verification(matches=True, rehash=True)
    assert not (await hasher.verify(stored, PASSWORD + "x")).matches
    # It can be exported and imported, with its pepper only.
    assert hasher.take_over(stored.portable, stored.pepper_id) == stored
    for pepper_id in (None, "p2"):
        with pytest.raises(HashRefused):
            hasher.take_over(stored.portable, pepper_id)


async def test_wrapped_hash_needs_the_pepper(hasher: PasswordHasher) -> None:
    weak = hasher.take_over(WEAK["passlib, ldap_salted_sha1"], None, accept_weak=True)
    assert isinstance(weak, ForeignHash)
    stored = await hasher.wrap(weak)
    assert not (await hasher.verify(PasswordHash(stored.phc, "gone"), PASSWORD)).matches
    elsewhere = PasswordHasher(cheap_passwords(), [KeySettings(id="p1", key=key("p2").key)])
    assert not (await elsewhere.verify(stored, PASSWORD)).matches
    elsewhere.close()


async def test_digest_within_a_wrapped_hash_is_no_password(hasher: PasswordHasher) -> None:
    # One that could be typed, by whoever has the old system's hashes.
    digest = "abcdefghijklmnopqrst"
    text = "{SHA}" + base64.b64encode(digest.encode()).decode()
    weak = hasher.take_over(text, None, accept_weak=True)
    assert isinstance(weak, ForeignHash)
    stored = await hasher.wrap(weak)
    unwrapped = PasswordHash("v1" + stored.phc.rpartition(" ")[2], "p1")
    for found in (stored, unwrapped):
        assert not (await hasher.verify(found, digest)).matches


@pytest.mark.parametrize(
    "phc",
    [
        "wrapped:",
        "wrapped: ",
        "wrapped:$2b$31$" + "." * 53 + " $argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43,
        "wrapped:nonsense $argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43,
        "wrapped: $argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43,
        "wrapped:$2b$04$" + "." * 53,
        "wrapped:$2b$04$" + "." * 53 + " $argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHRzYWx0$AAAA",
    ],
)
async def test_damaged_wrapped_hash_is_refused_and_matches_nothing(
    hasher: PasswordHasher, phc: str
) -> None:
    with pytest.raises(HashRefused):
        hasher.take_over(phc, "p1")
    if "4294967295" not in phc:
        assert not (await hasher.verify(PasswordHash(phc, "p1"), PASSWORD)).matches
