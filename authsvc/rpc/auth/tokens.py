"""Owns the RPCs of AuthService about access tokens: validation, issue to services, exchange."""

from authsvc.core.signing.access_tokens import AnyClaims
from authsvc.core.tokens.validation import TokenCheck, TokenResult
from authsvc.core.use_cases import UseCases
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_caller
from authsvc.rpc.message_cache import MessageCache
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb

_MAX_AUDIENCE = 256
_CACHE_SIZE = 10_000


class TokenRpcs(Topic):
    """Access tokens."""

    def __init__(self, use: UseCases) -> None:
        super().__init__(use)
        # Building a message costs more than validating a cached token, so messages are cached.
        self._active: MessageCache[AnyClaims, pb.ValidateTokenResponse] = MessageCache(_CACHE_SIZE)

    async def ValidateToken(
        self, request: pb.ValidateTokenRequest, _context: Context
    ) -> pb.ValidateTokenResponse:
        """Return whether an access token is active, and its claims."""
        check = TokenCheck(
            convert.token(request.access_token, "access_token"),
            convert.text(request.audience, "audience", _MAX_AUDIENCE),
            convert.scopes(request.required_scopes, "required_scopes"),
            request.strict,
            convert.thumbprint(request.certificate_thumbprint, "certificate_thumbprint"),
            convert.min_cursor(request.min_cursor) if request.min_cursor else None,
        )
        return self._result(await self._use.token_validation.validate(check))

    async def BatchValidateTokens(
        self, request: pb.BatchValidateTokensRequest, _context: Context
    ) -> pb.BatchValidateTokensResponse:
        """Return for each of up to 1000 access tokens whether it is active, and its claims."""
        convert.batch_size(request.access_tokens, "access_tokens")
        tokens = [
            convert.token(token, f"access_tokens[{index}]")
            for index, token in enumerate(request.access_tokens)
        ]
        results = await self._use.token_validation.validate_many(
            tokens,
            convert.text(request.audience, "audience", _MAX_AUDIENCE),
            convert.min_cursor(request.min_cursor) if request.min_cursor else None,
        )
        response = pb.BatchValidateTokensResponse()
        await self._use.slices.map(
            lambda result: response.results.append(self._result(result)), results
        )
        return response

    async def GetJwks(self, _request: pb.GetJwksRequest, _context: Context) -> pb.GetJwksResponse:
        """Return the public keys that verify access tokens."""
        return pb.GetJwksResponse(
            jwks_json=self._use.signing_keys.jwks(),
            expire_time=convert.timestamp(self._use.signing_keys.jwks_expire_time()),
            has_secret_keys=self._use.signing_keys.has_secret_keys(),
        )

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
        """Exchange a user's token for a narrower one that names the caller as actor."""
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

    def _result(self, result: TokenResult) -> pb.ValidateTokenResponse:
        claims = result.claims
        if claims is None or result.reason is not None:
            reason = convert.inactive_reason(result.reason)
            return pb.ValidateTokenResponse(inactive_reason=reason)
        message = self._active.get(claims.token_id, claims)
        if message is None:
            message = pb.ValidateTokenResponse(active=True, claims=convert.claims_message(claims))
            self._active.put(claims.token_id, claims, message)
        return message
