"""Owns the RPC of AdminService that opens a session in a user's name."""

from authsvc.errors import FieldInvalid
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import admin_service_pb2 as pb

_MAX_REASON = 512


class ImpersonationRpcs(Topic):
    """The impersonation of users."""

    async def ImpersonateUser(
        self, request: pb.ImpersonateUserRequest, _context: Context
    ) -> pb.ImpersonateUserResponse:
        """Open a short session in a user's name."""
        tokens = await self._use.impersonation.impersonate(
            current_call(),
            convert.user_id(request.user_id),
            _reason(request.reason),
            convert.client_context(request.client),
        )
        return pb.ImpersonateUserResponse(tokens=convert.tokens_message(tokens))


def _reason(value: str) -> str:
    reason = convert.text(value, "reason", _MAX_REASON, required=True).strip()
    if not reason:
        raise FieldInvalid("reason", "must not be blank")
    return reason
