"""Owns logins at any OpenID Connect provider (Core 1.0)."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import structlog

from authsvc.config import ProviderSettings
from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.errors import FieldInvalid, credentials_invalid
from authsvc.models.clock import Clock
from authsvc.outbound import id_tokens
from authsvc.outbound.answers import UNISSUED_CODE, Answer, JsonObject, check_issuer
from authsvc.outbound.http import JsonClient
from authsvc.outbound.oidc_metadata import Metadata, MetadataCache

log = structlog.get_logger(__name__)


class OpenIdConnect:
    """An OpenID Connect provider; the address in its settings is its issuer."""

    def __init__(self, settings: ProviderSettings, client: JsonClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._metadata = MetadataCache(settings.address, client, clock)

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        """Return the URL to send the user's browser to."""
        page = (await self._metadata.get()).authorization_endpoint
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        if self._settings.response_mode != "query":
            query["response_mode"] = self._settings.response_mode
        return f"{page}{'&' if urlsplit(page).query else '?'}{urlencode(query)}"

    async def identify(
        self, answer: AuthorizationAnswer, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        """Return the user that the code was issued for, from the id_token or the UserInfo."""
        metadata = await self._metadata.get()
        self._check_issuer(answer, metadata)
        form = {
            "grant_type": "authorization_code",
            "code": answer.code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        tokens = await self._exchange(metadata, form)
        try:
            claims = await self._verify(tokens["id_token"], metadata, nonce)
        except id_tokens.IdTokenInvalid as error:
            log.warning(
                "id_token_refused",
                provider=self._client.provider,
                issuer=self._settings.address,
                why=str(error),
            )
            raise credentials_invalid() from None
        # Providers may put all claims about the user into the UserInfo (Core, section 5.4), and
        # Okta and Authelia do; the address and whether it is verified come from one source.
        about = claims
        if claims.get("email") is None and metadata.userinfo_endpoint:
            about = await self._user_info(metadata, tokens, claims["sub"])
        verified = about.get("email_verified")
        if verified is None and self._settings.trust_unmarked_email:
            verified = True
        identity = ExternalIdentity.parse(
            claims["sub"],
            email=about.get("email"),
            email_verified=verified,
            display_name=about.get("name") or claims.get("name"),
        )
        if identity is None:
            log.warning("id_token_refused", provider=self._client.provider, why="sub")
            raise credentials_invalid()
        return identity

    async def check(self) -> None:
        """Fetch the metadata, and have a code refused.

        How a code is refused differs between providers, so only a refusal of the client counts.
        """
        metadata = await self._metadata.get()
        form = {
            "grant_type": "authorization_code",
            "code": UNISSUED_CODE,
            "redirect_uri": metadata.issuer,
        }
        answer = await self._redeem(metadata, form)
        if answer.refuses_client or answer.status >= 500:
            raise answer.failure()

    def _check_issuer(self, answer: AuthorizationAnswer, metadata: Metadata) -> None:
        if metadata.sends_issuer and not answer.issuer:
            log.warning("provider_iss_missing", provider=self._client.provider)
            raise FieldInvalid("iss", "must be passed on: this provider adds it to the redirect")
        check_issuer(answer, metadata.issuer, self._client.provider)

    async def _exchange(self, metadata: Metadata, form: dict[str, str]) -> JsonObject:
        """Return the tokens for the code in the form, with an id_token."""
        answer = await self._redeem(metadata, form)
        if answer.is_refusal:
            raise answer.refusal()
        if not isinstance(answer.members().get("id_token"), str):
            raise answer.failure()
        return answer.members()

    async def _redeem(self, metadata: Metadata, form: dict[str, str]) -> Answer:
        client_id = self._settings.client_id
        secret = self._settings.client_secret.get_secret_value()
        headers = {}
        if metadata.basic:
            # RFC 6749, section 2.3.1.
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        else:
            form |= {"client_id": client_id, "client_secret": secret}
        return await self._client.post(metadata.token_endpoint, form, headers)

    async def _user_info(self, metadata: Metadata, tokens: JsonObject, subject: str) -> JsonObject:
        """Return the claims of the UserInfo, or none if the provider doesn't give any out.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: they are another user's (Core, section 5.3.2).
            ProviderUnavailable: The provider did not answer in time, or answered incorrectly.
        """
        token = tokens.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            return {}
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self._client.get(metadata.userinfo_endpoint, headers)
        if answer.status in {401, 403, 404}:
            log.warning(
                "provider_user_info_not_readable",
                provider=self._client.provider,
                status=answer.status,
            )
            return {}
        found = answer.members()
        if found.get("sub") != subject:
            log.warning("user_info_refused", provider=self._client.provider, why="sub")
            raise credentials_invalid()
        return found

    async def _verify(self, token: str, metadata: Metadata, nonce: str) -> Mapping[str, Any]:
        settings = self._settings
        expected = id_tokens.Expected(metadata.issuer, settings.client_id, nonce, self._clock.now())
        try:
            return id_tokens.verify(token, metadata.keys, expected)
        except id_tokens.KeyUnknown:
            # The provider may have started to use a new key.
            metadata = await self._metadata.get(stale=metadata)
            return id_tokens.verify(token, metadata.keys, expected)
