"""Owns the forwarding of audit events to an HTTP endpoint, signed by Standard Webhooks 1.0."""

import hashlib
import json
from collections.abc import Sequence

from authsvc.config import WebhookSettings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.core.messages.delivery import NotDelivered
from authsvc.models.audit import AuditRow
from authsvc.models.clock import Clock
from authsvc.outbound.audit_event import event_object
from authsvc.outbound.proxy import ProxyRules
from authsvc.outbound.webhook import WebhookChannel


class AuditWebhookTarget:
    """Posts each batch as one webhook."""

    def __init__(self, settings: WebhookSettings, proxies: ProxyRules, clock: Clock) -> None:
        """Prepare the target; raises OSError if the CA file can't be used."""
        self.name = f"webhook:{settings.url}"
        self.limit = settings.timeout
        self._channel = WebhookChannel(settings, proxies, clock)

    async def send(self, rows: Sequence[AuditRow]) -> None:
        """Post the events; any 2xx confirms them. Other answers may change, so none is final."""
        events = [event_object(row) for row in rows]
        ids = "".join(event["event_id"] for event in events)
        # The same batch has the same id when it is posted again.
        batch_id = f"aud_{hashlib.sha256(ids.encode()).hexdigest()[:32]}"
        body = {
            "type": "audit.events",
            "timestamp": events[-1]["occur_time"],
            "data": {"events": events},
        }
        try:
            await self._channel.post(batch_id, json.dumps(body, separators=(",", ":")).encode())
        except NotDelivered as error:
            raise NotForwarded(error.error) from error

    async def close(self) -> None:
        """Close the session."""
        await self._channel.close()
