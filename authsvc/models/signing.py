"""Owns what a signing key is, without its secret, and the states of its life."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class KeyState(StrEnum):
    """Where a key is in its life: published, signing, verifying only, or not to be trusted."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class SigningKeyInfo:
    """A signing key without its secret; `expire_time` is when its last token has expired."""

    key_id: str
    algorithm: str
    state: KeyState
    create_time: datetime
    activate_time: datetime | None = None
    retire_time: datetime | None = None
    revoke_time: datetime | None = None
    expire_time: datetime | None = None
