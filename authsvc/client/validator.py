"""Owns the validation of access tokens by the service: many of them in one call."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from authsvc.client.batching import AioBatcher, SyncBatcher
from authsvc.client.connection import AsyncClient, Client
from authsvc.v1.auth_service_pb2 import (
    BatchValidateTokensRequest,
    ValidateTokenRequest,
    ValidateTokenResponse,
)
from authsvc.v1.common_pb2 import INACTIVE_REASON_MALFORMED, INACTIVE_REASON_SCOPE_MISSING

# Half of what a batch may have in bytes (setting grpc.max_batch_message_bytes).
_MAX_BYTES = 524_288
# Who names more audiences than this has taken them from requests.
_MAX_AUDIENCES = 1_000
# What may be a token: nothing else is sent, so that nobody's token makes a whole batch fail.
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)

_AnyBatcher = TypeVar("_AnyBatcher")


class _ByAudience(Generic[_AnyBatcher]):
    """A batcher for each audience, as a call has one for all of its tokens."""

    def __init__(self, new: Callable[[str], _AnyBatcher]) -> None:
        self._new = new
        self._batchers: dict[str, _AnyBatcher] = {}

    def __getitem__(self, audience: str) -> _AnyBatcher:
        found = self._batchers.get(audience)
        if found is None:
            if len(self._batchers) >= _MAX_AUDIENCES:
                self._batchers.clear()  # what waits in them goes on
            found = self._batchers.setdefault(audience, self._new(audience))
        return found


class AsyncTokenValidator:
    """Asks the service whether access tokens are active, in as few calls as possible.

    Tokens that are asked about while a call is in progress share the next one. A client that
    verifies tokens itself makes no calls at all: see AsyncVerifier.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._auth = client.auth
        self._batchers: _ByAudience[AioBatcher[str, ValidateTokenResponse]] = _ByAudience(
            lambda audience: AioBatcher(
                lambda tokens: self._send(tokens, audience), client.channel.settings, _MAX_BYTES
            )
        )

    async def validate(
        self,
        token: str,
        audience: str = "",
        *,
        scopes: Collection[str] = (),
        strict: bool = False,
        min_cursor: str = "",
        certificate_thumbprint: bytes = b"",
    ) -> ValidateTokenResponse:
        """Return whether the token is active, why not, and its claims.

        The parameters are those of ValidateTokenRequest. With one of the last three, the token
        goes in a call of its own.

        Raises:
            AuthsvcError: The call failed.
        """
        if not _TOKEN.fullmatch(token):
            return _malformed()
        if strict or min_cursor or certificate_thumbprint:
            return await self._auth.ValidateToken(
                ValidateTokenRequest(
                    access_token=token,
                    audience=audience,
                    required_scopes=scopes,
                    strict=strict,
                    min_cursor=min_cursor,
                    certificate_thumbprint=certificate_thumbprint,
                )
            )
        return _with_scopes(await self._batchers[audience].submit(token, len(token)), scopes)

    async def _send(self, tokens: list[str], audience: str) -> Sequence[ValidateTokenResponse]:
        if len(tokens) == 1:
            request = ValidateTokenRequest(access_token=tokens[0], audience=audience)
            return [await self._auth.ValidateToken(request)]
        batch = BatchValidateTokensRequest(access_tokens=tokens, audience=audience)
        return (await self._auth.BatchValidateTokens(batch)).results


class TokenValidator:
    """Asks the service whether access tokens are active: the twin of AsyncTokenValidator."""

    def __init__(self, client: Client) -> None:
        self._auth = client.auth
        self._batchers: _ByAudience[SyncBatcher[str, ValidateTokenResponse]] = _ByAudience(
            lambda audience: SyncBatcher(
                lambda tokens: self._send(tokens, audience), client.channel.settings, _MAX_BYTES
            )
        )

    def validate(
        self,
        token: str,
        audience: str = "",
        *,
        scopes: Collection[str] = (),
        strict: bool = False,
        min_cursor: str = "",
        certificate_thumbprint: bytes = b"",
    ) -> ValidateTokenResponse:
        """Return whether the token is active, why not, and its claims.

        The parameters are those of ValidateTokenRequest. With one of the last three, the token
        goes in a call of its own.

        Raises:
            AuthsvcError: The call failed.
        """
        if not _TOKEN.fullmatch(token):
            return _malformed()
        if strict or min_cursor or certificate_thumbprint:
            return self._auth.ValidateToken(
                ValidateTokenRequest(
                    access_token=token,
                    audience=audience,
                    required_scopes=scopes,
                    strict=strict,
                    min_cursor=min_cursor,
                    certificate_thumbprint=certificate_thumbprint,
                )
            )
        return _with_scopes(self._batchers[audience].submit(token, len(token)), scopes)

    def _send(self, tokens: list[str], audience: str) -> Sequence[ValidateTokenResponse]:
        if len(tokens) == 1:
            request = ValidateTokenRequest(access_token=tokens[0], audience=audience)
            return [self._auth.ValidateToken(request)]
        batch = BatchValidateTokensRequest(access_tokens=tokens, audience=audience)
        return self._auth.BatchValidateTokens(batch).results


def _malformed() -> ValidateTokenResponse:
    return ValidateTokenResponse(inactive_reason=INACTIVE_REASON_MALFORMED)


def _with_scopes(response: ValidateTokenResponse, scopes: Collection[str]) -> ValidateTokenResponse:
    """Return the response for those who require these scopes."""
    if not response.active or set(scopes) <= set(response.claims.scopes):
        return response
    return ValidateTokenResponse(inactive_reason=INACTIVE_REASON_SCOPE_MISSING)
