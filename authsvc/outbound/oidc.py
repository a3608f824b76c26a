"""Owns logins at any provider that speaks OpenID Connect (Core 1.0)."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import structlog

from authsvc.config import ProviderSettings
from authsvc.core.federation.providers import ExternalIdentity
from authsvc.errors import ProviderUnavailable, credentials_invalid
from authsvc.models.clock import Clock
from authsvc.outbound import id_tokens
from authsvc.outbound.http import JsonClient
from authsvc.outbound.oidc_metadata import Metadata, MetadataCache

_SCOPE = "openid email profile"

log = structlog.get_logger(__name__)


class OpenIdConnect:
    """A provider of identities; its settings' address is its issuer."""

    def __init__(self, settings: ProviderSettings, client: JsonClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._metadata = MetadataCache(settings.address, client, clock)

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        """Return the page to send the user's browser to."""
        page = (await self._metadata.get()).authorization_endpoint
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": _SCOPE,
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        return f"{page}{'&' if urlsplit(page).query else '?'}{urlencode(query)}"

    async def identify(
        self, code: str, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        """Return the user whom the code was given for, as the id_token says."""
        metadata = await self._metadata.get()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        token = await self._exchange(metadata, form)
        try:
            claims = await self._verify(token, metadata, nonce)
        except id_tokens.IdTokenInvalid as error:
            log.warning("id_token_refused", issuer=self._settings.address, why=str(error))
            raise credentials_invalid() from None
        identity = ExternalIdentity.parse(
            claims["sub"],
            email=claims.get("email"),
            email_verified=claims.get("email_verified"),
            display_name=claims.get("name"),
        )
        if identity is None:
            raise credentials_invalid()
        return identity

    async def _exchange(self, metadata: Metadata, form: dict[str, str]) -> str:
        """Return the id_token that comes for the code in the form."""
        client_id = self._settings.client_id
        secret = self._settings.client_secret.get_secret_value()
        headers = {}
        if metadata.basic:
            # RFC 6749, section 2.3.1.
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        else:
            form |= {"client_id": client_id, "client_secret": secret}
        answer = await self._client.post(metadata.token_endpoint, form, headers)
        # RFC 6749, section 5.2. All other errors are about this service, not about the code.
        if answer.status == 400 and _error(answer.content) == "invalid_grant":
            raise credentials_invalid()
        token = answer.object().get("id_token")
        if not isinstance(token, str):
            raise ProviderUnavailable
        return token

    async def _verify(self, token: str, metadata: Metadata, nonce: str) -> Mapping[str, Any]:
        settings = self._settings
        expected = id_tokens.Expected(
            settings.address, settings.client_id, nonce, self._clock.now()
        )
        try:
            return id_tokens.verify(token, metadata.keys, expected)
        except id_tokens.KeyUnknown:
            # The provider may have begun to use a new one.
            metadata = await self._metadata.get(unfit=metadata)
            return id_tokens.verify(token, metadata.keys, expected)


def _error(content: Any) -> Any:
    return content.get("error") if isinstance(content, dict) else None
