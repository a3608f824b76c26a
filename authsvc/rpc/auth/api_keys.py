"""Owns the RPC of AuthService that validates API keys."""

from authsvc.core.api_keys.validation import ApiKeyCheck
from authsvc.rpc import Context, convert
from authsvc.rpc.topic import Topic
from authsvc.v1 import auth_service_pb2 as pb


class KeyRpcs(Topic):
    """The validation of API keys."""

    async def ValidateApiKey(
        self, request: pb.ValidateApiKeyRequest, _context: Context
    ) -> pb.ValidateApiKeyResponse:
        """Return whether an API key is active, its user and its scopes."""
        check = ApiKeyCheck(
            convert.token(request.api_key, "api_key"),
            convert.scopes(request.required_scopes, "required_scopes"),
            convert.min_cursor(request.min_cursor) if request.min_cursor else None,
        )
        result = await self._use.api_key_validation.validate(check)
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
