"""Owns the RPCs of AuthService about tokens for services: their own, and exchanged ones."""

from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_caller
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb

_MAX_AUDIENCE = 256


class TokenRpcs:
    """Tokens for services."""

    _use: AuthUseCases

    async def IssueServiceToken(
        self, request: pb.IssueServiceTokenRequest, _context: Context
    ) -> pb.IssueServiceTokenResponse:
        """Issue a token for the calling service itself, bound to its certificate."""
        token = await self._use.service_tokens.issue(
            current_call(),
            current_caller(),
            convert.text(request.audience, "audience", _MAX_AUDIENCE),
            convert.scopes(request.scopes, "scopes"),
        )
        return pb.IssueServiceTokenResponse(
            access_token=token.text, expire_time=convert.timestamp(token.expire_time)
        )

    async def ExchangeToken(
        self, request: pb.ExchangeTokenRequest, _context: Context
    ) -> pb.ExchangeTokenResponse:
        """Exchange a user's token for a narrower one, in the name of the caller."""
        token = await self._use.service_tokens.exchange(
            current_call(),
            current_caller(),
            convert.token(request.subject_token, "subject_token"),
            convert.text(request.audience, "audience", _MAX_AUDIENCE),
            convert.scopes(request.scopes, "scopes"),
        )
        return pb.ExchangeTokenResponse(
            access_token=token.text, expire_time=convert.timestamp(token.expire_time)
        )
