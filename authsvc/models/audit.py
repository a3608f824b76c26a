"""Owns the part of the audit log that users may see."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from authsvc.models.ids import SessionId


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """An audit event as shown to the user it concerns.

    `impersonator` is the service that acted in the user's name, if the session was impersonated.
    """

    event_id: UUID
    occur_time: datetime
    type: str
    session_id: SessionId | None
    ip: str | None
    user_agent: str
    impersonator: str | None = None
