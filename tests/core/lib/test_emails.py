"""Addresses are kept as given and compared by one canonical form for all spellings."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.lib.emails import Email, is_of_a_directory, parse_email, parse_new_email
from authsvc.errors import FieldInvalid, Reason

# 254 bytes: as long as an address can be (RFC 5321, 4.5.3.1.3, without the angle brackets).
LONGEST = "a" * 64 + "@" + ".".join(["b" * 62, "c" * 62, "d" * 60, "ee"])


def parse_unless_refused(text: str) -> Email | None:
    try:
        return parse_email(text)
    except FieldInvalid as error:
        error.message.encode()  # Encodable: it contains no lone surrogate.
        return None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice.Wonder@EXAMPLE.Com", "alice.wonder@example.com"),
        ("alice+tag@example.com", "alice+tag@example.com"),
        ("alice@dev.example.test", "alice@dev.example.test"),
        ("o'neil&sons@example.com", "o'neil&sons@example.com"),
        ("straße@example.com", "strasse@example.com"),
        ("ﬁona@example.com", "fiona@example.com"),
        # Modifier letters: NFKC turns them into capitals, which have to be folded again.
        ("\u1d2cl\u1d35ce@example.com", "alice@example.com"),
        ("ΌΔΟΣ@example.com", "όδοσ@example.com"),
        ("Jose\u0301@example.com", "josé@example.com"),
        ("alice@BÜCHER.example", "alice@xn--bcher-kva.example"),
        ("alice@XN--BCHER-KVA.example", "alice@xn--bcher-kva.example"),
        ("alice@bu\u0308cher.example", "alice@xn--bcher-kva.example"),
        ("alice@\uff45xample.com", "alice@example.com"),
        ("alice@例。com", "alice@xn--fsq.com"),
        ("用户@例子.example", "用户@xn--fsqu00a.example"),
        (LONGEST, LONGEST),
    ],
)
def test_address_is_kept_as_given_with_canonical_form(text: str, canonical: str) -> None:
    assert parse_email(text) == Email(text, canonical)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice@example.com", "alice+tag@example.com"),
        ("alice.wonder@example.com", "alicewonder@example.com"),
        # Turkish: neither letter folds to the ASCII i.
        ("irmak@example.com", "\u0131rmak@example.com"),
        ("irmak@example.com", "\u0130rmak@example.com"),
        # Cyrillic: looks the same but is another address.
        ("alice@example.com", "\u0430lice@example.com"),
        # Two domains since IDNA 2008, possibly with different owners.
        ("alice@faß.example", "alice@fass.example"),
    ],
)
def test_distinct_addresses_stay_distinct(one: str, other: str) -> None:
    assert parse_email(one).canonical != parse_email(other).canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "@example.com",
        "alice@",
        "alice@example",
        "alice@localhost",
        "alice@example.invalid",
        "alice@example..com",
        "alice@-example.com",
        "alice@example.com.",
        ".alice@example.com",
        "..@example.com",
        f"{'a.' * 40}@example.com",
        f"{'a' * 60}{'.' * 5}@example.com",
        "al\u2025ce@example.com",
        "al\u2026ce@example.com",
        "älice..wonder@example.com",
        "alice@local",
        "alice@arpa",
        "alice@x.arpa",
        "alice@1",
        "alice@-x",
        "alice@x-",
        "alice@x_y",
        "alice@xn--x",
        "alice@x..local",
        "alice@.local",
        "alice@corp.local.",
        "alice@corp\u3002local",
        "alice@\uff49ntranet",
        "alice@intranet\n",
        "alice@bücher",
        "alice@" + "x" * 64,
        "alice@x.onion",
        "alice@bob@example.com",
        "alice@[192.0.2.1]",
        "alice@192.0.2.1",
        '"alice wonder"@example.com',
        "Alice <alice@example.com>",
        "alice@example.com, bob@example.com",
        " alice@example.com",
        "alice@example.com ",
        "alice@example.com\n",
        "alice\r\nBcc: bob@example.com",
        "alice\0@example.com",
        "alice\u200b@example.com",
        "alice\u202e@example.com",
        "alice\ud800@example.com",
        "alice\uff20example.com",
        "alice@xn--a.com",
        LONGEST + "e",
        # 254 characters, one byte too many.
        "á" + LONGEST[1:],
    ],
)
def test_malformed_address_is_rejected(text: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        parse_email(text, "charges[0].email")
    assert caught.value.reason is Reason.EMAIL_INVALID
    (violation,) = caught.value.violations
    assert violation.field == "charges[0].email"
    assert violation.description.endswith(".")


@pytest.mark.parametrize(
    "text",
    [
        "alice\ufe6bevil.com@example.com",  # a small at sign
        "alice\u2026wonder@example.com",  # three dots
        "alice\u2024@example.com",  # one dot
        "alice\u2474@example.com",  # a digit in parentheses
    ],
)
def test_compatibility_characters_do_not_hide_malformed_address(text: str) -> None:
    with pytest.raises(FieldInvalid):
        parse_email(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\ufb01rst@example.com", "first@example.com"),
        ("\uff41lice@example.com", "alice@example.com"),
        ("alice@\uff45xample.com", "alice@example.com"),
        ("alice\u00b2@example.com", "alice2@example.com"),
        ("\u017fam@example.com", "sam@example.com"),
        ("\u1d2clice@example.com", "alice@example.com"),
        # One character each for letters that have others: the Kelvin sign, the sharp s.
        ("\u212aate@example.com", "kate@example.com"),
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("STRA\u1e9eE@example.com", "strasse@example.com"),
    ],
)
def test_new_address_has_no_characters_that_stand_for_others(text: str, written: str) -> None:
    assert parse_email(text).canonical == written
    with pytest.raises(FieldInvalid) as caught:
        parse_new_email(text, "new_email")
    assert caught.value.reason is Reason.EMAIL_INVALID
    (violation,) = caught.value.violations
    assert violation.field == "new_email"
    assert f"If the address is {written!r}, write it so." in violation.description
    assert parse_new_email(written) == Email(written, written)


@pytest.mark.parametrize(
    "text",
    [
        "Alice.Wonder+tag@EXAMPLE.Com",
        "Jose\u0301@example.com",
        "jos\u00e9@example.com",
        "\u038c\u0394\u039f\u03a3@example.com",
        "\u03cc\u03b4\u03bf\u03c2@example.com",
        "\u0131rmak@example.com",
        "\u0130rmak@example.com",
        "\u13a0@example.com",
        "\uab70@example.com",
        "\u0958@example.com",
        "\u7528\u6237@\u4f8b\u5b50.example",
        "alice@B\u00dcCHER.example",
        "alice@fa\u00df.example",
    ],
)
def test_new_address_may_be_in_any_script_and_case(text: str) -> None:
    assert parse_new_email(text) == parse_email(text)


def test_length_is_checked_first_and_in_bytes() -> None:
    with pytest.raises(FieldInvalid, match="longer than 254 bytes"):
        parse_email("é" * 1_000_000)


local_parts = st.text(min_size=1, max_size=20)
domains = st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=3).map(".".join)
near_addresses = st.builds("{}@{}.com".format, local_parts, domains)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.one_of(st.text(), near_addresses, st.emails()))
def test_any_text_has_one_canonical_form_or_is_rejected(text: str) -> None:
    email = parse_unless_refused(text)
    if email is not None:
        assert email.address == text
        assert parse_email(email.canonical) == Email(email.canonical, email.canonical)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.characters(exclude_categories=["Cs"]))
def test_case_folding_is_idempotent_for_every_character(character: str) -> None:
    email = parse_unless_refused(f"a{character}b@example.com")
    if email is not None:
        assert parse_email(email.canonical).canonical == email.canonical
        assert email.canonical.count("@") == 1


@pytest.mark.slow
@settings(max_examples=500)
@given(st.characters(exclude_categories=["Cs"]))
def test_new_addresses_compared_as_equal_differ_in_case_only(character: str) -> None:
    try:
        email = parse_new_email(f"a{character}b@example.com")
    except FieldInvalid:
        return
    # In lower case, it is the canonical form itself, or the form of a letter in another place.
    lower = unicodedata.normalize("NFC", f"a{character}b@example.com").lower()
    assert unicodedata.normalize("NFC", email.canonical.lower()) == lower.replace(
        "\u03c2", "\u03c3"
    )


_DIRECTORY = ["intranet", "corp-7", "corp.local", "7.corp.local", "home.arpa", "nas.home.arpa"]


@pytest.mark.parametrize("domain", _DIRECTORY)
def test_domains_of_private_networks_are_for_new_accounts_by_a_setting_only(domain: str) -> None:
    text = f"Alice.W@{domain.upper()}"
    expected = Email(text, f"alice.w@{domain}")
    # Accounts that have such an address are found by it, whatever the setting says.
    assert parse_email(text) == expected
    assert is_of_a_directory(expected)
    assert parse_new_email(text, directory_domains=True) == expected
    with pytest.raises(FieldInvalid, match="private network") as caught:
        parse_new_email(text, "new_email")
    assert (caught.value.reason, caught.value.violations[0].field) == (
        Reason.EMAIL_INVALID,
        "new_email",
    )
    assert parse_email(expected.canonical) == Email(expected.canonical, expected.canonical)


@pytest.mark.parametrize(
    "domain", ["example.com", "intranet.test", "local.example.com", "a.internal"]
)
def test_other_domains_need_no_setting(domain: str) -> None:
    assert not is_of_a_directory(parse_email(f"alice@{domain}"))
    assert parse_new_email(f"alice@{domain}") == parse_email(f"alice@{domain}")


@pytest.mark.parametrize("local", ["alice..wonder", "alice.", "alice..", "a...b..c."])
def test_dots_are_kept_and_new_accounts_have_none_to_spare(local: str) -> None:
    text = f"{local.upper()}@example.com"
    email = parse_email(text)
    assert email == Email(text, f"{local}@example.com")
    assert parse_email(email.canonical).canonical == email.canonical
    for directory_domains in (False, True):
        with pytest.raises(FieldInvalid, match="two periods"):
            parse_new_email(text, directory_domains=directory_domains)


def test_addresses_that_differ_in_dots_stay_distinct() -> None:
    locals_ = ("alice.w", "alice..w", "alice...w", "alice.w.", "alice.w..", "alicew")
    canonical = [parse_email(f"{local}@example.com").canonical for local in locals_]
    assert len(set(canonical)) == len(canonical)
