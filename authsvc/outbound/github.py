"""Owns logins at GitHub or a GitHub Enterprise Server.

Sources: docs.github.com, "Authorizing OAuth apps" and the REST API's "users" and "emails".
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import structlog

from authsvc.config import ProviderSettings
from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.errors import email_not_verified
from authsvc.outbound.answers import UNISSUED_CODE, Answer, check_issuer
from authsvc.outbound.http import JsonClient

_SCOPE = "read:user user:email"
# Of 100 addresses each; the shortest page of all is empty.
_MAX_PAGES = 10
# What the API says to whoever has no token, or has asked too often without one.
_NO_TOKEN = frozenset({401, 403, 429})

log = structlog.get_logger(__name__)


class GitHub:
    """GitHub as an identity provider."""

    def __init__(self, settings: ProviderSettings, client: JsonClient) -> None:
        self._settings = settings
        self._client = client
        self._address = settings.address.rstrip("/")
        self._api_address = settings.api_address.rstrip("/")

    async def authorization_url(
        self,
        state: str,
        nonce: str,  # noqa: ARG002 - only in OpenID Connect
        code_challenge: str,
        redirect_uri: str,
    ) -> str:
        """Return the URL to send the user's browser to."""
        query = {
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": _SCOPE,
            "state": state,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._address}/login/oauth/authorize?{urlencode(query)}"

    async def identify(
        self,
        answer: AuthorizationAnswer,
        verifier: str,
        nonce: str,  # noqa: ARG002 - only in OpenID Connect
        redirect_uri: str,
    ) -> ExternalIdentity:
        """Return the user that the code was issued for, with the verified primary address."""
        check_issuer(answer, f"{self._address}/login/oauth", self._client.provider)
        token = await self._token(answer.code, verifier, redirect_uri)
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
        }
        user = await self._client.get(f"{self._api_address}/user", headers)
        subject = user.members().get("id")
        if not isinstance(subject, int) or isinstance(subject, bool):
            raise user.failure()
        address = await self._address_of_user(headers)
        identity = ExternalIdentity.parse(
            str(subject),
            email=address,
            email_verified=bool(address),
            display_name=user.members().get("name") or user.members().get("login"),
        )
        if identity is None:
            raise user.failure()
        return identity

    async def check(self) -> None:
        """Have a code refused, and the API ask for a token."""
        answer = await self._redeem({"code": UNISSUED_CODE})
        if not answer.is_refusal:
            raise answer.failure()
        answer = await self._client.get(f"{self._api_address}/user")
        if answer.status not in _NO_TOKEN or not isinstance(answer.content, dict):
            raise answer.failure()

    async def _address_of_user(self, headers: Mapping[str, str]) -> str:
        """Return the primary verified address, or "" unless there is exactly one.

        Pages are counted: links in the answer are not followed.
        """
        for page in range(1, _MAX_PAGES + 1):
            query = urlencode({"per_page": 100, "page": page})
            answer = await self._client.get(f"{self._api_address}/user/emails?{query}", headers)
            if answer.status in {403, 404}:
                # The user did not grant the scope, or the application lacks the permission.
                log.warning(
                    "provider_email_not_readable", provider=answer.provider, status=answer.status
                )
                return ""
            if answer.status != 200 or not isinstance(answer.content, list):
                raise answer.failure()
            found = [item.get("email") for item in answer.content if _is_verified_primary(item)]
            if found or not answer.content:
                return found[0] if len(found) == 1 and isinstance(found[0], str) else ""
        return ""

    async def _token(self, code: str, verifier: str, redirect_uri: str) -> str:
        form = {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri}
        answer = await self._redeem(form)
        # GitHub returns 200 even for errors.
        if answer.is_refusal:
            raise answer.refusal()
        if answer.oauth_error == "unverified_user_email":
            log.warning("provider_email_not_verified", provider=answer.provider)
            raise email_not_verified()
        token = answer.members().get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise answer.failure()
        return token

    async def _redeem(self, form: Mapping[str, str]) -> Answer:
        client = {
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.get_secret_value(),
        }
        return await self._client.post(
            f"{self._address}/login/oauth/access_token", {**client, **form}
        )


def _is_verified_primary(item: Any) -> bool:
    return isinstance(item, dict) and item.get("primary") is True and item.get("verified") is True
