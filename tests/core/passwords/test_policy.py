"""Weak passwords are rejected with all their faults at once; good ones never are."""

from hashlib import sha512

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.errors import FieldInvalid, Reason

STANDARD = PasswordPolicy("standard")
NIST = PasswordPolicy("nist")
EMAIL = "alice.wonder+news@acme-corp.example"
NAME = "Alicia Pleasance"

TOO_SHORT = "Use at least 12 characters."
TOO_SHORT_FOR_NIST = "Use at least 15 characters."
ALL_KINDS = (
    "Add an upper-case letter, a lower-case letter, a digit, a special character, "
    "or use at least 20 characters."
)
COMMON = "Choose another password: this one is common or was breached."
PERSONAL = "Use fewer characters of your name, your e-mail address or the service's name."
GUESSABLE = "Choose a password that is harder to guess; four unrelated words will do."


def faults(password: str, policy: PasswordPolicy = STANDARD) -> list[str]:
    try:
        policy.check(password, email=EMAIL, display_name=NAME)
    except FieldInvalid as error:
        return [violation.description for violation in error.violations]
    return []


@pytest.mark.parametrize("policy", [STANDARD, NIST])
@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "orbit velvet canyon drum",
        "pen ink cup map fog hat",
        "my cat likes cold milk",
        "Tr0ub4dor&3-and-more",
        "V7#kq9!mZx2$Lw4p",
        "4d7c0e91b2f85a63c1d9e7f0",
        "84935027160748392615",
        "кошка любит холодное молоко",
        "我喜欢在早上喝一杯热咖啡然后去公园散步吧",
        "القط يحب الحليب البارد جدا",
        "👩‍👩‍👧 four 🔑 emoji 🎈 words 🐙",
        "remarkable alice dislikes vodka",
        "ha ha he he ho ho hum! " * 40,
        "".join(sha512(bytes([n])).hexdigest() for n in range(8)),
    ],
)
def test_strong_passwords_are_accepted(policy: PasswordPolicy, password: str) -> None:
    assert faults(password, policy) == []


def test_long_passwords_are_accepted_up_to_maximum() -> None:
    assert faults(" ".join(["кошка", "любит", "молоко", "утром"] * 3)[:64]) == []
    assert faults("é4Ж~" * 2 + "many words " * 91) == []
    with pytest.raises(FieldInvalid) as caught:
        STANDARD.check("é" * 513, field="new_password", email=EMAIL)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "new_password"


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("Vk7#qm9!zX2", [TOO_SHORT]),
        ("Vk7#qm9!zX2p", []),
        # Twelve characters as typed, eleven as hashed, and the reverse.
        ("Vk7#qm9!zXe\u0301", [TOO_SHORT]),
        ("Vk7#qm9!zX\ufb01", [TOO_SHORT]),
        ("vk7#qm9!zx2p", ["Add an upper-case letter, or use at least 20 characters."]),
        ("VK7#QM9!ZX2P", ["Add a lower-case letter, or use at least 20 characters."]),
        ("Vkw#qmu!zXop", ["Add a digit, or use at least 20 characters."]),
        ("Vk7Aqm9BzX2p", ["Add a special character, or use at least 20 characters."]),
        (
            "vkwfqmuszxopqcgnjyd",
            [ALL_KINDS.replace("a lower-case letter, ", "")],
        ),
        ("vkwfqmuszxopqcgnjydr", []),
        # Letters of a script without case count as both.
        ("密码安全北京上海广州7!x", []),
        ("密码安全北京上海广州!x", ["Add a digit, or use at least 20 characters."]),
    ],
)
def test_standard_requires_length_and_character_kinds_or_passphrase(
    password: str, expected: list[str]
) -> None:
    assert faults(password) == expected


@pytest.mark.parametrize(
    ("password", "expected"),
    [("vkwfqmuszxopqc", [TOO_SHORT_FOR_NIST]), ("vkwfqmuszxopqcg", [])],
)
def test_nist_requires_length_only(password: str, expected: list[str]) -> None:
    assert faults(password, NIST) == expected


@pytest.mark.parametrize(
    "password",
    ["Password1234!", "1qaz@WSX3edc", "Admin@123456", "qwertyuiopasdfghjklzxcvbnm"],
)
def test_common_and_breached_passwords_are_rejected(password: str) -> None:
    assert COMMON in faults(password)


def test_breached_password_in_other_case_is_rejected() -> None:
    assert COMMON in faults("CorrectHorseBatteryStaple")


@pytest.mark.parametrize(
    "password",
    [
        "a" * 64,
        "Aa1!" * 6,
        "abcdefghijklmnopqrstuvwxyz",
        "98765432109876543210",
        "P@ssw0rd2026",
        "Welcome12345!",
        "Passw0rd!Passw0rd!",
        "zaq12wsxCDE#",
        "пппппппппппппппппппппп",
    ],
)
def test_patterns_are_rejected(password: str) -> None:
    assert GUESSABLE in faults(password)


@pytest.mark.parametrize(
    "password",
    [
        "Alice.Wonder-2026!",
        "alice.wonder+news@acme-corp.example",
        "ALICE.WONDER 1234!",
        "4l1c3.W0nd3r-2026!",
        "rednoW.ecila-2026!",
        "Acme-Corp-2026!",
        "Corp.Acme.News!9",
        "Pleasance,Alicia7!",
        "AuthSvc-Authsvc-1!",
        "AALICELICE-2026-x!",
    ],
)
def test_passwords_made_of_names_are_rejected(password: str) -> None:
    assert PERSONAL in faults(password)


def test_names_do_not_make_password_stronger() -> None:
    assert faults("Alicia-Vk7#qm9!zX2p") == []
    assert faults("MyAuthsvcPassword1!") == [GUESSABLE]


def test_name_of_another_user_is_accepted() -> None:
    STANDARD.check("Alice.Wonder-2026!x", email="bob@example.com")


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(FieldInvalid) as caught:
        STANDARD.check("alice", field="new_password", email=EMAIL, display_name=NAME)
    assert caught.value.reason is Reason.PASSWORD_WEAK
    assert {violation.field for violation in caught.value.violations} == {"new_password"}
    assert [violation.description for violation in caught.value.violations] == [
        TOO_SHORT,
        "Add an upper-case letter, a digit, a special character, or use at least 20 characters.",
        PERSONAL,
    ]
    assert "alice" not in str(caught.value)


@pytest.mark.parametrize("password", ["", "nul\0inside a long password", "half a pair \ud83d"])
def test_invalid_password_is_not_reported_as_weak(password: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        STANDARD.check(password, email=EMAIL)
    assert caught.value.reason is Reason.FIELD_INVALID


@pytest.mark.slow
@pytest.mark.parametrize("policy", [STANDARD, NIST])
@settings(max_examples=200)
@given(
    password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    email=st.one_of(st.emails(), st.text()),
    name=st.text(),
)
def test_any_text_is_accepted_or_rejected_without_error(
    policy: PasswordPolicy, password: str, email: str, name: str
) -> None:
    try:
        policy.check(password, email=email, display_name=name)
    except FieldInvalid as error:
        judged_weak = error.reason is Reason.PASSWORD_WEAK
    else:
        judged_weak = False
    assert judged_weak or len(password) >= 12
