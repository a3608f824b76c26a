"""Owns audit events as they are stored and as users may see them, and what to look for."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from uuid import UUID

from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId


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


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An event as stored; `detail` is a JSON object."""

    event_id: UUID
    occur_time: datetime
    type: str
    call: Call
    user_id: UserId | None
    session_id: SessionId | None
    client: ClientContext
    detail: str
    # Of the transaction that wrote it; 0 unless it was read by following the log.
    transaction_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events to read: those for which all that is set holds."""

    types: tuple[str, ...] = ()
    user_id: UserId | None = None
    session_id: SessionId | None = None
    caller: str | None = None
    network: IPv4Network | IPv6Network | None = None
    request_id: str | None = None

    def matches(self, row: AuditRow) -> bool:
        """Return whether an event is one of those; a scan decides the same in SQL."""
        return (
            (not self.types or row.type in self.types)
            and self.user_id in {None, row.user_id}
            and self.session_id in {None, row.session_id}
            and self.caller in {None, row.call.caller}
            and self.request_id in {None, row.call.request_id}
            and (self.network is None or _is_within(row.client.ip, self.network))
        )


def _is_within(ip: str | None, network: IPv4Network | IPv6Network) -> bool:
    return ip is not None and ip_address(ip) in network
