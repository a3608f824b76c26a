"""Owns e-mail addresses: which texts are valid, and when two addresses are the same."""

import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from authsvc.errors import FieldInvalid, Reason

MAX_BYTES = 254


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


def _validate(text: str) -> ValidatedEmail:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise EmailNotValidError(f"The email address is longer than {MAX_BYTES} bytes.")
    return validate_email(text, check_deliverability=False, test_environment=True)


def _canonical(valid: ValidatedEmail) -> str:
    return f"{_fold(valid.local_part)}@{valid.ascii_domain.lower()}"


def _fold(text: str) -> str:
    """Return `text` in NFKC and case-folded; each can undo the other, so repeat until stable."""
    folded = unicodedata.normalize("NFKC", text.casefold())
    return folded if folded == text else _fold(folded)
