"""Owns the RPCs of AccountService about the data held on the user, and its erasure."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from authsvc.models.audit import SecurityEvent
from authsvc.rpc import Context, convert
from authsvc.rpc.account.messages import passkey_signals
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb

_MAX_CHUNK = 60 * 1_024


class DataRpcs(Topic):
    """The data held on the user."""

    async def ListSecurityEvents(
        self, request: pb.ListSecurityEventsRequest, _context: Context
    ) -> pb.ListSecurityEventsResponse:
        """Return the account's security events, newest first."""
        page = await self._use.account_data.list_events(
            current_claims().subject,
            request.page_size,
            convert.text(request.page_token, "page_token", 512),
        )
        return pb.ListSecurityEventsResponse(
            events=map(_event_message, page.events), next_page_token=page.next_page_token
        )

    async def ExportData(
        self, _request: pb.ExportDataRequest, _context: Context
    ) -> AsyncIterator[pb.ExportDataResponse]:
        """Stream all data held on the user."""
        chunk = bytearray()
        async with aclosing(
            self._use.account_data.export(current_call(), current_claims())
        ) as batches:
            async for batch in batches:
                for line in batch:
                    if chunk and len(chunk) + len(line) > _MAX_CHUNK:
                        yield pb.ExportDataResponse(json_lines=bytes(chunk))
                        chunk.clear()
                    chunk += line
        yield pb.ExportDataResponse(json_lines=bytes(chunk))

    async def DeleteAccount(
        self, _request: pb.DeleteAccountRequest, _context: Context
    ) -> pb.DeleteAccountResponse:
        """Erase the account."""
        claims = current_claims()
        cursor = await self._use.account_deletion.delete(current_call(), claims)
        signals = self._use.passkey_signalling.deleted_account(claims.subject)
        return pb.DeleteAccountResponse(
            passkey_signals=passkey_signals(signals),
            revocation_cursor=convert.revocation_cursor(cursor),
        )


def _event_message(event: SecurityEvent) -> pb.SecurityEvent:
    return pb.SecurityEvent(
        event_id=str(event.event_id),
        occur_time=convert.timestamp(event.occur_time),
        type=event.type,
        session_id=str(event.session_id) if event.session_id else "",
        ip=event.ip or "",
        user_agent=event.user_agent,
        impersonator=event.impersonator or "",
    )
