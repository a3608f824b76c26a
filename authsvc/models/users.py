"""Owns what an account is."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from authsvc.models.ids import UserId


class UserStatus(StrEnum):
    """Whether an account may be used."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class User:
    """An account, without its secrets."""

    user_id: UserId
    email: str
    display_name: str
    roles: tuple[str, ...]
    status: UserStatus
    create_time: datetime
    email_verify_time: datetime | None = None
    has_second_factor: bool = False
