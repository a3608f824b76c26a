"""Owns the domain values of a session and of a selection, and the reasons for a revocation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import InactiveReason
from authsvc.models.users import UserStatus


class RevokeReason(StrEnum):
    """Why a session was ended before it expired."""

    LOGOUT = "logout"
    REVOKED = "revoked"
    REPLACED = "replaced"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 - a reason's name
    USER_DISABLED = "user_disabled"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a reason's name
    OWNER_ARRIVED = "owner_arrived"


@dataclass(frozen=True, slots=True)
class Session:
    """A session without its secret; `csrf_hash` is the SHA-256 of its anti-forgery token.

    `refresh_counter` is the number of the current refresh token; `user_status`, `user_roles` and
    `token_revoke_time` are those of the user when the row was read. `other_ip` is an address of the
    other family than the client's, from which the user had logged in on the same device.
    `idle_lifetime` is how long it lasts without being used, if the user's roles said so when it was
    opened. `impersonator` is the identity of the service that opened it in the user's name; None if
    the user logged in.
    """

    session_id: SessionId
    user_id: UserId
    create_time: datetime
    last_use_time: datetime
    authentication_time: datetime
    idle_expire_time: datetime
    absolute_expire_time: datetime
    client: ClientContext
    authentication_methods: tuple[str, ...]
    csrf_hash: bytes = field(repr=False)
    refresh_counter: int
    revoke_time: datetime | None
    revoke_reason: RevokeReason | None
    user_status: UserStatus
    user_roles: tuple[str, ...]
    other_ip: str | None = None
    idle_lifetime: timedelta | None = None
    impersonator: str | None = None
    token_revoke_time: datetime | None = None

    def end_reason(self) -> InactiveReason | None:
        """Return why the session is over before its time; None if it isn't."""
        if self.revoke_time is not None:
            return InactiveReason.SESSION_REVOKED
        if self.user_status is not UserStatus.ACTIVE:
            return InactiveReason.USER_DISABLED
        return None

    def inactive_reason(self, now: datetime) -> InactiveReason | None:
        """Return why the session can't be used or refreshed any more; None if it can."""
        ended = self.end_reason()
        if ended is None and now >= self.idle_expire_time:
            return InactiveReason.SESSION_EXPIRED
        return ended

    def is_in_force(self, now: datetime) -> bool:
        """Return whether what was issued under the session still counts, be it idle or not."""
        return self.end_reason() is None and now < self.absolute_expire_time


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSelection:
    """The sessions, of any user, that meet all criteria; without criteria, all sessions.

    `created_before` is exclusive and `created_after` inclusive. `network` is an address or a
    network, as PostgreSQL reads it, from which the session was opened.
    """

    created_before: datetime | None = None
    created_after: datetime | None = None
    network: str | None = None
    authentication_method: str = ""
    user_ids: Sequence[UserId] = ()
    impersonated_only: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether there are no criteria."""
        return not (
            self.created_before
            or self.created_after
            or self.network
            or self.authentication_method
            or self.user_ids
            or self.impersonated_only
        )
