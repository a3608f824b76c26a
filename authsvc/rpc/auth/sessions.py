"""Owns the RPCs of AuthService about the session of a refresh token: refreshed, or ended."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb

# Room for a token of any kind, so that the wrong kind is told apart from what is no token at all.
_MAX_REFRESH_TOKEN = 8_192


class SessionRpcs(Topic):
    """A user's session, by its refresh token."""

    async def RefreshTokens(
        self, request: pb.RefreshTokensRequest, _context: Context
    ) -> pb.RefreshTokensResponse:
        """Replace a refresh token by a new pair of tokens."""
        tokens = await self._use.session_refresh.refresh(
            current_call(),
            convert.text(request.refresh_token, "refresh_token", _MAX_REFRESH_TOKEN, required=True),
            convert.client_context(request.client),
        )
        return pb.RefreshTokensResponse(tokens=convert.tokens_message(tokens))

    async def Logout(self, request: pb.LogoutRequest, _context: Context) -> pb.LogoutResponse:
        """End the session of a refresh token."""
        token = convert.text(
            request.refresh_token, "refresh_token", _MAX_REFRESH_TOKEN, required=True
        )
        await self._use.session_ending.log_out(current_call(), token)
        return pb.LogoutResponse()
