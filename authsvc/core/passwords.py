"""Owns the password policy: which passwords may be chosen."""

from typing import Literal

from authsvc.core.hashing import normalize_password
from authsvc.errors import FieldInvalid

_MIN_LENGTH = {"standard": 12, "nist": 15}


class PasswordPolicy:
    """Says which passwords may be chosen (ASVS 6.2; SP 800-63B-4, 3.1.1.2)."""

    def __init__(self, preset: Literal["standard", "nist"]) -> None:
        self._preset = preset

    def check(
        self, password: str, *, field: str = "password", email: str, display_name: str = ""
    ) -> None:
        """Accept `password` for the user with this e-mail address and name.

        Raises:
            FieldInvalid: PASSWORD_WEAK with a violation for each rule that it breaks, or
                FIELD_INVALID if it can't be a password at all.
        """
        normalized = normalize_password(password, field)
        if len(normalized) < _MIN_LENGTH[self._preset]:
            raise FieldInvalid.weak_password(
                field, [f"Use {_MIN_LENGTH[self._preset]} characters or more."]
            )
