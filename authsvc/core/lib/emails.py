"""Owns e-mail addresses: what is one, and when two are the same."""

import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from authsvc.errors import FieldInvalid, Reason

MAX_EMAIL_BYTES = 254


@dataclass(frozen=True, slots=True)
class Email:
    """An address as it was given, where mail goes, and the form by which it is compared."""

    address: str
    canonical: str


def parse_email(text: str, field: str = "email") -> Email:
    """Return `text`, up to 254 bytes of UTF-8 without whitespace around it, as an address.

    The canonical form is NFKC and case folded, the domain in ASCII (IDNA 2008). It is an address
    itself, and its own canonical form. A `+tag` stays. Domains under `.test` (RFC 6761) are
    accepted; nobody's DNS is asked.

    Raises:
        FieldInvalid: EMAIL_INVALID, if it can't be an address.
    """
    try:
        canonical = _canonical(_validate(text))
        if not text.isascii():
            # Compatibility characters may hide an at sign or dots, such as U+FE6B and U+2026.
            _validate(canonical)
    except EmailNotValidError as error:
        raise FieldInvalid(field, str(error), reason=Reason.EMAIL_INVALID) from None
    return Email(text, canonical)


def _validate(text: str) -> ValidatedEmail:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_EMAIL_BYTES:
        raise EmailNotValidError(f"The email address is longer than {MAX_EMAIL_BYTES} bytes.")
    return validate_email(text, check_deliverability=False, test_environment=True)


def _canonical(valid: ValidatedEmail) -> str:
    return f"{_fold(valid.local_part)}@{valid.ascii_domain.lower()}"


def _fold(text: str) -> str:
    """Return `text` in NFKC and case folded; each can undo the other, so until nothing changes."""
    folded = unicodedata.normalize("NFKC", text.casefold())
    return folded if folded == text else _fold(folded)
