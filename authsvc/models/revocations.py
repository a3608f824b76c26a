"""Owns what a revocation is: something that must no longer be accepted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Kind = Literal["session", "user", "key", "api_key"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something no longer accepted: a session, all of a user's, a signing key or an API key."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class LoggedRevocation(Revocation):
    """A revocation as it stands in the log."""

    revoke_time: datetime
