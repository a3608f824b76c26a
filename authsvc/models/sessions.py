"""Owns what a session is, and why one is ended."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId, UserId
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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Session:
    """A session, without its secret; `csrf_hash` is the SHA-256 of its anti-forgery token.

    Compared by identity, so that what is derived from a cached one can be kept beside it.

    `refresh_counter` is the number of the one refresh token that is current; `user_status` and
    `user_roles` are the owner's when the row was read.
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
