"""Owns the handler of AccountService that changes a password."""

from authsvc.core.accounts.password_change import NewPassword
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.use_cases import AccountUseCases
from authsvc.v1 import account_service_pb2 as pb

_MAX_PASSWORD = 1_024


class PasswordRpcs:
    """The RPC about the user's password."""

    _use: AccountUseCases

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _context: Context
    ) -> pb.ChangePasswordResponse:
        """Set a new password."""
        asked = NewPassword(
            current=convert.text(request.current_password, "current_password", _MAX_PASSWORD),
            new=convert.text(request.new_password, "new_password", _MAX_PASSWORD, required=True),
            end_other_sessions=request.end_other_sessions,
            client=convert.client_context(request.client),
        )
        ended = await self._use.password_change.change(current_call(), current_claims(), asked)
        return pb.ChangePasswordResponse(ended_session_count=ended)
