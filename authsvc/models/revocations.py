"""Owns what a revocation is: something that must no longer be accepted; and what names it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

Kind = Literal["session", "user", "key", "api_key"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something no longer accepted: a session, all of a user's, a signing key or an API key."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class LoggedRevocation(Revocation):
    """A revocation as it stands in the log.

    With `cache_only`, nothing ends: what was issued before remains valid. It concerns tokens for
    `validity` from its time on, or longer if this replica's settings say so.
    """

    revoke_time: datetime
    cache_only: bool = False
    validity: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class RevocationCursor:
    """Names what one transaction revoked, and all that had been revoked before it ended.

    A reader that knows this transaction to have ended knows of the earlier ones, too: PostgreSQL
    removes transactions from its list of those in progress one after the other, each before its
    commit is acknowledged, and a snapshot is a copy of that list.
    """

    run_id: UUID
    transaction: int


@dataclass(frozen=True, slots=True)
class EndedSessions:
    """How many active sessions a call ended; `cursor` names what it revoked, None if nothing."""

    count: int
    cursor: RevocationCursor | None


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """That a signing key is revoked: `is_new` if it wasn't before; `cursor` names it either way."""

    is_new: bool
    cursor: RevocationCursor
