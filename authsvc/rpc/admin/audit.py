"""Owns the RPCs of AdminService that list and watch audit events."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from ipaddress import ip_network

from authsvc.errors import FieldInvalid
from authsvc.models.audit import AuditFilter, AuditRow
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_caller
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_TYPES, _MAX_TYPE = 64, 64
_MAX_CALLER = 512
_MAX_REQUEST_ID = 128
_MAX_CURSOR = 16_384


class AuditRpcs(Topic):
    """The audit log."""

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, _context: Context
    ) -> pb.ListAuditEventsResponse:
        """Return a page of events, newest first."""
        page = await self._use.audit_listing.page(
            _filter(request.filter),
            convert.time(request, "start_time"),
            convert.time(request, "end_time"),
            request.page_size,
            convert.text(request.page_token, "page_token", 512),
        )
        return pb.ListAuditEventsResponse(
            events=map(_event_message, page.rows), next_page_token=page.next_page_token
        )

    async def WatchAuditEvents(
        self, request: pb.WatchAuditEventsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchAuditEventsResponse]:
        """Stream events as they are committed."""
        wanted = _filter(request.filter)
        cursor = convert.text(request.cursor, "cursor", _MAX_CURSOR)
        watched = self._use.audit_watch.watch(current_caller().identity, wanted, cursor)
        async with aclosing(watched):
            async for events in watched:
                yield pb.WatchAuditEventsResponse(
                    events=map(_event_message, events.rows),
                    cursor=events.cursor,
                    known_until_time=convert.timestamp(events.known_until),
                )


def _filter(message: pb.AuditEventFilter) -> AuditFilter:
    if len(message.types) > _MAX_TYPES:
        raise FieldInvalid("filter.types", f"must have at most {_MAX_TYPES} items")
    return AuditFilter(
        types=tuple(
            convert.text(text, f"filter.types[{index}]", _MAX_TYPE, required=True)
            for index, text in enumerate(message.types)
        ),
        user_id=convert.user_id(message.user_id, "filter.user_id") if message.user_id else None,
        session_id=(
            convert.session_id(message.session_id, "filter.session_id")
            if message.session_id
            else None
        ),
        caller=convert.text(message.caller, "filter.caller", _MAX_CALLER) or None,
        network=(
            ip_network(convert.network(message.network, "filter.network"))
            if message.network
            else None
        ),
        request_id=convert.text(message.request_id, "filter.request_id", _MAX_REQUEST_ID) or None,
    )


def _event_message(row: AuditRow) -> pb.AuditEvent:
    return pb.AuditEvent(
        event_id=str(row.event_id),
        occur_time=convert.timestamp(row.occur_time),
        type=row.type,
        caller=row.call.caller,
        request_id=row.call.request_id,
        user_id=str(row.user_id) if row.user_id else "",
        session_id=str(row.session_id) if row.session_id else "",
        ip=row.client.ip or "",
        user_agent=row.client.user_agent,
        detail_json=row.detail,
    )
