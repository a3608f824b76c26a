"""Owns the domain value of an account."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from authsvc.models.ids import UserId


class UserStatus(StrEnum):
    """Whether an account may be used."""

    ACTIVE = "active"
    DISABLED = "disabled"


class UserOrigin(StrEnum):
    """How an account was made."""

    REGISTER = "register"
    FEDERATED = "federated"
    IMPORT = "import"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    """An account without its secrets."""

    user_id: UserId
    email: str
    display_name: str
    roles: tuple[str, ...]
    status: UserStatus
    create_time: datetime
    email_verify_time: datetime | None = None
    has_second_factor: bool = False

    @property
    def active(self) -> bool:
        """Whether the account may be used."""
        return self.status is UserStatus.ACTIVE


@dataclass(frozen=True, slots=True)
class LockedUser(User):
    """An account whose row the transaction has locked: nobody else can change it until it ends."""
