"""Owns the handler of SessionService: each RPC converts, calls one use case, converts back."""

from functools import partial

from authsvc.core.sessions.validation import SessionCheck, SessionResult
from authsvc.models.incidents import LoginMethod
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.session.revocations import RevocationRpcs
from authsvc.rpc.session.session_keys import SessionKeyRpcs
from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1 import session_service_pb2_grpc as rpc


class SessionHandler(SessionKeyRpcs, RevocationRpcs, rpc.SessionServiceServicer):
    """The creation, validation, listing and ending of sessions."""

    async def CreateSession(
        self, request: pb.CreateSessionRequest, _context: Context
    ) -> pb.CreateSessionResponse:
        """Create a session for a user whom the caller authenticated."""
        user_id, client = convert.user_id(request.user_id), convert.client_context(request.client)
        methods = convert.authentication_methods(
            request.authentication_methods, "authentication_methods"
        )
        create = partial(self._use.session_opening.create, current_call(), user_id, client, methods)
        tokens = await self._use.logins.run(LoginMethod.ISSUED, client, create)
        return pb.CreateSessionResponse(tokens=convert.tokens_message(tokens))

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, _context: Context
    ) -> pb.ValidateSessionResponse:
        """Return whether a session is active."""
        return _result(await self._use.session_validation.validate(_check(request, "")))

    async def BatchValidateSessions(
        self, request: pb.BatchValidateSessionsRequest, _context: Context
    ) -> pb.BatchValidateSessionsResponse:
        """Return for each of up to 1000 sessions whether it is active."""
        convert.batch_size(request.checks, "checks")
        checks = await self._use.slices.map(
            lambda item: _check(item[1], f"checks[{item[0]}]."), enumerate(request.checks)
        )
        results = await self._use.session_validation.validate_many(checks)
        response = pb.BatchValidateSessionsResponse()
        await self._use.slices.map(lambda result: response.results.append(_result(result)), results)
        return response

    async def GetSession(
        self, request: pb.GetSessionRequest, _context: Context
    ) -> pb.GetSessionResponse:
        """Return a session by its public id."""
        session = await self._use.session_listing.get(convert.session_id(request.session_id))
        return pb.GetSessionResponse(session=convert.session_message(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, _context: Context
    ) -> pb.ListSessionsResponse:
        """List a user's active sessions, newest first."""
        page = await self._use.session_listing.list(
            convert.user_id(request.user_id),
            request.page_size,
            convert.text(request.page_token, "page_token", 512),
        )
        return pb.ListSessionsResponse(
            sessions=map(convert.session_message, page.sessions),
            next_page_token=page.next_page_token,
        )

    async def RevokeSession(
        self, request: pb.RevokeSessionRequest, _context: Context
    ) -> pb.RevokeSessionResponse:
        """End a session by its public id."""
        cursor = await self._use.session_ending.revoke(
            current_call(), convert.session_id(request.session_id)
        )
        return pb.RevokeSessionResponse(
            clear_cookie=self._use.session_cookies.removal(),
            revocation_cursor=convert.revocation_cursor(cursor),
        )

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, _context: Context
    ) -> pb.RevokeUserSessionsResponse:
        """End all sessions of a user, optionally except one."""
        kept = request.except_session_id
        ended = await self._use.session_ending.revoke_all(
            current_call(),
            convert.user_id(request.user_id),
            convert.session_id(kept, "except_session_id") if kept else None,
        )
        return pb.RevokeUserSessionsResponse(
            revoked_count=ended.count, revocation_cursor=convert.revocation_cursor(ended.cursor)
        )


def _result(result: SessionResult) -> pb.ValidateSessionResponse:
    if result.session is None or result.memo is None:
        reason = convert.inactive_reason(result.reason)
        return pb.ValidateSessionResponse(inactive_reason=reason)
    # Building a message costs more than validating a cached session, so it is kept in the memo.
    message = result.memo.value
    if not isinstance(message, pb.Session):
        message = result.memo.value = convert.session_message(result.session)
    return pb.ValidateSessionResponse(active=True, session=message, csrf_valid=result.csrf_valid)


def _check(request: pb.ValidateSessionRequest, path: str) -> SessionCheck:
    return SessionCheck(
        convert.token(request.session_token, f"{path}session_token"),
        convert.client_context(request.client, f"{path}client"),
        request.csrf_token,
        request.strict,
        convert.min_cursor(request.min_cursor, f"{path}min_cursor") if request.min_cursor else None,
    )
