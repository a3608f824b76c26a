"""Owns the RPC of AccountService that changes a password."""

from authsvc.core.accounts.password_change import NewPassword
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class PasswordRpcs(Topic):
    """A user's password."""

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _context: Context
    ) -> pb.ChangePasswordResponse:
        """Set a new password."""
        new_password = NewPassword(
            current=convert.password(request.current_password, "current_password", required=False),
            new=convert.password(request.new_password, "new_password"),
            end_other_sessions=request.end_other_sessions,
            client=convert.client_context(request.client),
        )
        ended = await self._use.password_change.change(
            current_call(), current_claims(), new_password
        )
        return pb.ChangePasswordResponse(
            ended_session_count=ended.count,
            revocation_cursor=convert.revocation_cursor(ended.cursor),
        )
