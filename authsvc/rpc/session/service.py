"""Owns the handlers of SessionService: each converts, calls one use case, converts back."""

from weakref import WeakKeyDictionary

from authsvc.core.sessions.sessions import SessionCheck, SessionResult, Sessions
from authsvc.models.sessions import Session
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1 import session_service_pb2_grpc as rpc


class SessionHandler(rpc.SessionServiceServicer):
    """Sessions: created, validated, listed and ended."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        # Making a message costs more than judging a cached session, so it is kept beside it.
        self._messages: WeakKeyDictionary[Session, pb.Session] = WeakKeyDictionary()

    async def CreateSession(
        self, request: pb.CreateSessionRequest, _context: Context
    ) -> pb.CreateSessionResponse:
        """Create a session for a user whom the caller authenticated."""
        tokens = await self._sessions.create(
            current_call(),
            convert.user_id(request.user_id),
            convert.client_context(request.client),
            convert.authentication_methods(
                request.authentication_methods, "authentication_methods"
            ),
        )
        return pb.CreateSessionResponse(tokens=convert.tokens_message(tokens))

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, _context: Context
    ) -> pb.ValidateSessionResponse:
        """Say whether a session is active."""
        return self._result(await self._sessions.validate(_check(request, "")))

    async def BatchValidateSessions(
        self, request: pb.BatchValidateSessionsRequest, _context: Context
    ) -> pb.BatchValidateSessionsResponse:
        """Say of up to 1000 sessions whether they are active."""
        convert.batch_size(request.checks, "checks")
        checks = [_check(check, f"checks[{index}].") for index, check in enumerate(request.checks)]
        results = await self._sessions.validate_many(checks)
        return pb.BatchValidateSessionsResponse(results=map(self._result, results))

    async def GetSession(
        self, request: pb.GetSessionRequest, _context: Context
    ) -> pb.GetSessionResponse:
        """Return a session by its public id."""
        session = await self._sessions.get(convert.session_id(request.session_id))
        return pb.GetSessionResponse(session=convert.session_message(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, _context: Context
    ) -> pb.ListSessionsResponse:
        """List a user's active sessions, newest first."""
        page = await self._sessions.list(
            convert.user_id(request.user_id),
            convert.page_size(request.page_size),
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
        await self._sessions.revoke(current_call(), convert.session_id(request.session_id))
        return pb.RevokeSessionResponse()

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, _context: Context
    ) -> pb.RevokeUserSessionsResponse:
        """End all sessions of a user, but for one if wanted."""
        spared = request.except_session_id
        count = await self._sessions.revoke_all(
            current_call(),
            convert.user_id(request.user_id),
            convert.session_id(spared, "except_session_id") if spared else None,
        )
        return pb.RevokeUserSessionsResponse(revoked_count=count)

    def _result(self, result: SessionResult) -> pb.ValidateSessionResponse:
        if result.session is None or result.reason is not None:
            reason = convert.inactive_reason(result.reason)
            return pb.ValidateSessionResponse(inactive_reason=reason)
        message = self._messages.get(result.session)
        if message is None:
            message = convert.session_message(result.session)
            self._messages[result.session] = message
        return pb.ValidateSessionResponse(
            active=True, session=message, csrf_valid=result.csrf_valid
        )


def _check(request: pb.ValidateSessionRequest, path: str) -> SessionCheck:
    return SessionCheck(
        convert.token(request.session_token, f"{path}session_token"),
        convert.client_context(request.client, f"{path}client"),
        request.csrf_token,
        request.strict,
    )
