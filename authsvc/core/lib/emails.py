"""Owns e-mail addresses: which texts are valid, and when two addresses are the same.

Accounts are looked up by any address that one may have, also from an import or an earlier setting;
whether a new account may have it is another question.
"""

import re
import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from authsvc.errors import FieldInvalid, Reason

MAX_EMAIL_BYTES = 254
_MAX_LOCAL, _MAX_DOMAIN = 64, 253
# The letter has two lower-case forms, by its place in the word.
_FINAL_SIGMA = {"\u03c2": "\u03c3"}
# Domains that only a private network has: single labels, and those of RFC 6762 and RFC 8375.
_LABEL = r"(?!-|xn--)[a-z0-9-]{1,63}(?<!-)"
_DIRECTORY_DOMAIN = re.compile(
    rf"(?!(?:localhost|invalid|onion|test|arpa|local|example|[0-9]+)\Z){_LABEL}"
    rf"|(?:{_LABEL}\.)+local|(?:{_LABEL}\.)*home\.arpa",
    re.ASCII,
)
# Some providers gave out local parts with dots in a row and at the end (against RFC 5321, 4.1.2).
_EXTRA_DOTS = re.compile(r"\.+(?=\.|\Z)")


@dataclass(frozen=True, slots=True)
class Email:
    """An address as given, to which mail is sent, and the canonical form used to compare it."""

    address: str
    canonical: str


def parse_email(text: str, field: str = "email") -> Email:
    """Parse `text`, up to 254 bytes of UTF-8 without surrounding whitespace, as an address.

    The canonical form is NFKC and case-folded, with the domain in ASCII (IDNA 2008). It is itself a
    valid address, and its own canonical form. A `+tag` is kept, and so is every dot. Domains under
    `.test` (RFC 6761) are accepted, and those of private networks; no DNS query is made.

    Raises:
        FieldInvalid: EMAIL_INVALID if it is not a valid address.
    """
    try:
        # Only ASCII has dots that are nothing else in another form.
        canonical = _canonical(text, extra_dots=text.isascii())
        if not text.isascii():
            # Compatibility characters such as U+FE6B and U+2026 may hide an at sign or dots.
            _canonical(canonical, extra_dots=False)
    except EmailNotValidError as error:
        raise FieldInvalid(field, str(error), reason=Reason.EMAIL_INVALID) from None
    return Email(text, canonical)


def fold_prefix(text: str) -> str:
    """Return the beginning of an address in its canonical form; its domain must be in ASCII."""
    return _fold(text)


def is_of_a_directory(email: Email) -> bool:
    """Return whether an address has a domain that only a private network has."""
    return _DIRECTORY_DOMAIN.fullmatch(email.canonical.rpartition("@")[2]) is not None


def parse_new_email(text: str, field: str = "email", *, directory_domains: bool = False) -> Email:
    """Parse the address of a new account, as `parse_email` does, or the new address of one.

    Two spellings of an address that are compared as equal have to be one mailbox. So a new address
    must not contain characters that stand for others, such as the ligature in `ﬁrst@example.com`
    or the sharp s in `straße@example.com`: `first@example.com` and `strasse@example.com` may be
    other people's. Capitals and combined accents are fine. Accounts that already have such an
    address are found by it as before. Dots in a row or at the end are refused too, and so are
    domains of private networks unless `directory_domains` is on.

    Raises:
        FieldInvalid: EMAIL_INVALID if it is not a valid address, or not one for a new account.
    """
    email = parse_email(text, field)
    if is_of_a_directory(email) and not directory_domains:
        raise FieldInvalid(
            field,
            "The part after the @-sign is a name of a private network.",
            reason=Reason.EMAIL_INVALID,
        )
    local = text.rpartition("@")[0]
    if _EXTRA_DOTS.search(local):
        raise FieldInvalid(
            field,
            "The part before the @-sign has two periods in a row, or ends with one.",
            reason=Reason.EMAIL_INVALID,
        )
    for character in text:
        # In the domain, IDNA tells apart what case folding does not.
        if _stands_for_another(character) or (character in local and _folds_to_others(character)):
            raise FieldInvalid(
                field,
                f"The character {character!r} counts as {_fold(character)!r} in an address. "
                f"If the address is {email.canonical!r}, write it so.",
                reason=Reason.EMAIL_INVALID,
            )
    return email


def _stands_for_another(character: str) -> bool:
    """Return whether normalization turns a character into others, not only into its parts."""
    composed = unicodedata.normalize("NFC", character)
    if len(composed) == 1 and composed != character:
        return True
    return unicodedata.normalize("NFKC", character) != composed


def _folds_to_others(character: str) -> bool:
    """Return whether case folding turns a letter into others than its own lower case."""
    lower = unicodedata.normalize("NFC", character).lower()
    return _fold(character).lower() not in {lower, _FINAL_SIGMA.get(character)}


def _canonical(text: str, *, extra_dots: bool) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_EMAIL_BYTES:
        raise EmailNotValidError(f"The email address is longer than {MAX_EMAIL_BYTES} bytes.")
    local, _, domain = text.rpartition("@")
    may_have_dots = extra_dots and len(local) <= _MAX_LOCAL
    plain_local = _EXTRA_DOTS.sub("", local) if may_have_dots else local
    # No name of a private network is international, so only its length and letters matter.
    in_directory = len(domain) <= _MAX_DOMAIN and _DIRECTORY_DOMAIN.fullmatch(domain.lower())
    valid = _validate(f"{plain_local}@example.com" if in_directory else f"{plain_local}@{domain}")
    folded = _fold(valid.local_part if plain_local == local else local)
    return f"{folded}@{(domain if in_directory else valid.ascii_domain).lower()}"


def _validate(text: str) -> ValidatedEmail:
    return validate_email(text, check_deliverability=False, test_environment=True)


def _fold(text: str) -> str:
    """Return `text` in NFKC and case-folded; each can undo the other, so repeat until stable."""
    folded = unicodedata.normalize("NFKC", text.casefold())
    return folded if folded == text else _fold(folded)
