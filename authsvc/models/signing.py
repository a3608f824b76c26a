"""Owns the public description of a signing key and the states of its life cycle."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class KeyState(StrEnum):
    """The state of a key: published, signing, verifying only, or no longer trusted."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class SigningKeyInfo:
    """A signing key without its secret; by `expire_time`, its last token has expired.

    `rotate_request_time` is when somebody asked that another key replace this active one.
    """

    key_id: str
    algorithm: str
    state: KeyState
    create_time: datetime
    activate_time: datetime | None = None
    retire_time: datetime | None = None
    revoke_time: datetime | None = None
    expire_time: datetime | None = None
    rotate_request_time: datetime | None = None
