"""Owns the RPCs of AccountService about the user's API keys."""

from authsvc.core.api_keys.keys import NewApiKey
from authsvc.models.api_keys import ApiKey
from authsvc.models.ids import ApiKeyId
from authsvc.rpc import Context, convert
from authsvc.rpc.call_context import current_call, current_claims
from authsvc.rpc.rate_limit.messages import policy_name
from authsvc.rpc.topic import Topic
from authsvc.v1 import account_service_pb2 as pb


class ApiKeyRpcs(Topic):
    """A user's API keys."""

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, _context: Context
    ) -> pb.CreateApiKeyResponse:
        """Create an API key; its text is returned only here."""
        new_key = NewApiKey(
            name=convert.label(request.name, required=True),
            scopes=convert.scopes(request.scopes, "scopes"),
            lifetime=convert.interval(request.lifetime, "lifetime")
            if request.HasField("lifetime")
            else None,
            policy=policy_name(request.policy, "policy") if request.policy else "",
        )
        created = await self._use.api_keys.create(current_call(), current_claims(), new_key)
        return pb.CreateApiKeyResponse(api_key=created.text, key=_message(created.key))

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, _context: Context
    ) -> pb.ListApiKeysResponse:
        """Return the user's API keys, newest first."""
        page = await self._use.api_keys.list(
            current_claims().subject,
            request.page_size,
            convert.text(request.page_token, "page_token", 512),
        )
        return pb.ListApiKeysResponse(
            keys=map(_message, page.keys), next_page_token=page.next_page_token
        )

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, _context: Context
    ) -> pb.RevokeApiKeyResponse:
        """Revoke an API key immediately."""
        key_id = ApiKeyId(convert.uuid(request.key_id, "key_id"))
        cursor = await self._use.api_keys.revoke(current_call(), current_claims().subject, key_id)
        return pb.RevokeApiKeyResponse(revocation_cursor=convert.revocation_cursor(cursor))


def _message(key: ApiKey) -> pb.ApiKey:
    used, revoked = key.last_use_time, key.revoke_time
    return pb.ApiKey(
        key_id=str(key.key_id),
        name=key.name,
        prefix=key.prefix,
        scopes=key.scopes,
        policy=key.policy,
        create_time=convert.timestamp(key.create_time),
        expire_time=convert.timestamp(key.expire_time),
        last_use_time=None if used is None else convert.timestamp(used),
        revoke_time=None if revoked is None else convert.timestamp(revoked),
    )
