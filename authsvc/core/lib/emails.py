"""Owns e-mail addresses: which texts are valid, and when two addresses are the same."""

import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from authsvc.errors import FieldInvalid, Reason

MAX_EMAIL_BYTES = 254
# The letter has two lower-case forms, by its place in the word.
_FINAL_SIGMA = {"\u03c2": "\u03c3"}


@dataclass(frozen=True, slots=True)
class Email:
    """An address as given, to which mail is sent, and the canonical form used to compare it."""

    address: str
    canonical: str


def parse_email(text: str, field: str = "email") -> Email:
    """Parse `text`, up to 254 bytes of UTF-8 without surrounding whitespace, as an address.

    The canonical form is NFKC and case-folded, with the domain in ASCII (IDNA 2008). It is itself a
    valid address, and its own canonical form. A `+tag` is kept. Domains under `.test` (RFC 6761)
    are accepted; no DNS query is made.

    Raises:
        FieldInvalid: EMAIL_INVALID if it is not a valid address.
    """
    try:
        canonical = _canonical(_validate(text))
        if not text.isascii():
            # Compatibility characters such as U+FE6B and U+2026 may hide an at sign or dots.
            _validate(canonical)
    except EmailNotValidError as error:
        raise FieldInvalid(field, str(error), reason=Reason.EMAIL_INVALID) from None
    return Email(text, canonical)


def parse_new_email(text: str, field: str = "email") -> Email:
    """Parse the address of a new account, as `parse_email` does, or the new address of one.

    Two spellings of an address that are compared as equal have to be one mailbox. So a new address
    must not contain characters that stand for others, such as the ligature in `ﬁrst@example.com`
    or the sharp s in `straße@example.com`: `first@example.com` and `strasse@example.com` may be
    other people's. Capitals and combined accents are fine. Accounts that already have such an
    address are found by it as before.

    Raises:
        FieldInvalid: EMAIL_INVALID if it is not a valid address, or contains such a character.
    """
    email = parse_email(text, field)
    local = text.rpartition("@")[0]
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


def _validate(text: str) -> ValidatedEmail:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_EMAIL_BYTES:
        raise EmailNotValidError(f"The email address is longer than {MAX_EMAIL_BYTES} bytes.")
    return validate_email(text, check_deliverability=False, test_environment=True)


def _canonical(valid: ValidatedEmail) -> str:
    return f"{_fold(valid.local_part)}@{valid.ascii_domain.lower()}"


def _fold(text: str) -> str:
    """Return `text` in NFKC and case-folded; each can undo the other, so repeat until stable."""
    folded = unicodedata.normalize("NFKC", text.casefold())
    return folded if folded == text else _fold(folded)
