"""Owns the domain values of an account, as its user and as operators see it, and of lists."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

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
    """An account without its secrets.

    Access tokens whose `iat` is at or before the second of `token_revoke_time` are refused.
    """

    user_id: UserId
    email: str
    display_name: str
    roles: tuple[str, ...]
    status: UserStatus
    create_time: datetime
    email_verify_time: datetime | None = None
    has_second_factor: bool = False
    last_login_time: datetime | None = None
    password_change_required: bool = False
    token_revoke_time: datetime | None = None

    @property
    def active(self) -> bool:
        """Whether the account may be used."""
        return self.status is UserStatus.ACTIVE


@dataclass(frozen=True, slots=True)
class LockedUser(User):
    """An account whose row the transaction has locked: nobody else can change it until it ends."""


class Lock(NamedTuple):
    """Too many logins have failed; without `expire_time`, only a success or an operator helps."""

    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDetails(User):
    """An account as operators see it.

    `failed_logins` and `failed_device_logins` are in a row, from unknown and from known devices.
    `lock` and `device_lock` say whether these can log in with what can be guessed; None if so.
    `factor_kinds` are those of confirmed factors, with "recovery_code" if any is left.
    """

    update_time: datetime
    origin: UserOrigin | None
    has_password: bool
    failed_logins: int
    failed_device_logins: int
    factor_kinds: tuple[str, ...]
    providers: tuple[str, ...]
    lock: Lock | None = None
    device_lock: Lock | None = None


class TimeRange(NamedTuple):
    """A span of time, from its start to just before its end; None: without a bound."""

    start: datetime | None = None
    end: datetime | None = None


_ANY_TIME = TimeRange()


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users to list; every given part has to match.

    `email_prefix` is the beginning of a canonical address. A range of `last_login_time` excludes
    users who never logged in.
    """

    email_prefix: str = ""
    role: str = ""
    status: UserStatus | None = None
    verified: bool | None = None
    provider: str = ""
    create_time: TimeRange = _ANY_TIME
    last_login_time: TimeRange = _ANY_TIME
