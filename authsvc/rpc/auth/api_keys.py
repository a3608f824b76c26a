"""Owns the RPC of AuthService about API keys: whether one is active."""

from authsvc.core.api_keys.validation import ApiKeyCheck
from authsvc.rpc import Context, convert
from authsvc.rpc.use_cases import AuthUseCases
from authsvc.v1 import auth_service_pb2 as pb


class KeyRpcs:
    """API keys, judged."""

    _use: AuthUseCases

    async def ValidateApiKey(
        self, request: pb.ValidateApiKeyRequest, _context: Context
    ) -> pb.ValidateApiKeyResponse:
        """Say whether an API key is active, whose it is and what it may do."""
        check = ApiKeyCheck(
            convert.token(request.api_key, "api_key"),
            convert.scopes(request.required_scopes, "required_scopes"),
        )
        result = await self._use.api_keys.validate(check)
        if result.key is None:
            wait = result.retry_after
            return pb.ValidateApiKeyResponse(
                inactive_reason=convert.inactive_reason(result.reason),
                retry_after=None if wait is None else convert.duration(wait),
            )
        return pb.ValidateApiKeyResponse(
            active=True,
            user_id=str(result.key.user_id),
            key_id=str(result.key.key_id),
            scopes=result.scopes,
            expire_time=convert.timestamp(result.key.expire_time),
        )
