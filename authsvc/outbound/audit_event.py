"""Owns the form in which audit events leave the service: the same for every target."""

import json
from typing import Any

from authsvc.models.audit import AuditRow


def event_object(row: AuditRow) -> dict[str, Any]:
    """Return an event as a JSON object, with the names of the API's AuditEvent."""
    return {
        "event_id": str(row.event_id),
        "occur_time": row.occur_time.isoformat(),
        "type": row.type,
        "caller": row.call.caller,
        "request_id": row.call.request_id,
        "user_id": str(row.user_id) if row.user_id else None,
        "session_id": str(row.session_id) if row.session_id else None,
        "ip": row.client.ip,
        "user_agent": row.client.user_agent,
        "detail": json.loads(row.detail),
    }
