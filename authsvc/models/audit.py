"""Owns what users are shown of the audit log."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from authsvc.models.ids import SessionId


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """An audit event as its user may see it."""

    event_id: UUID
    occur_time: datetime
    type: str
    session_id: SessionId | None
    ip: str | None
    user_agent: str
