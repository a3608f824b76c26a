"""Owns the RPCs of AuthService that refresh or end the session of a refresh token."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb

# Large enough for a token of any kind, so that one of the wrong kind is not an invalid field.
_MAX_REFRESH_TOKEN = 8_192


class SessionRpcs(Topic):
    """A user's session, identified by its refresh token."""

    async def RefreshTokens(
        self, request: pb.RefreshTokensRequest, _context: Context
    ) -> pb.RefreshTokensResponse:
        """Exchange a refresh token for a new pair of tokens."""
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
        cursor = await self._use.session_ending.log_out(current_call(), token)
        return pb.LogoutResponse(
            clear_cookie=self._use.session_cookies.removal(),
            revocation_cursor=convert.revocation_cursor(cursor),
        )
