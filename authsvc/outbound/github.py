"""Owns logins at GitHub or a GitHub Enterprise Server.

Sources: docs.github.com, "Authorizing OAuth apps" and the REST API's "users" and "emails".
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from authsvc.config import ProviderSettings
from authsvc.core.federation.providers import ExternalIdentity
from authsvc.errors import ProviderUnavailable, credentials_invalid
from authsvc.outbound.http import JsonClient

_SCOPE = "read:user user:email"


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
        code: str,
        verifier: str,
        nonce: str,  # noqa: ARG002 - only in OpenID Connect
        redirect_uri: str,
    ) -> ExternalIdentity:
        """Return the user that the code was issued for, with the verified primary address."""
        token = await self._token(code, verifier, redirect_uri)
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
        }
        user = (await self._client.get(f"{self._api_address}/user", headers)).object()
        subject = user.get("id")
        if not isinstance(subject, int) or isinstance(subject, bool):
            raise ProviderUnavailable
        address = await self._address_of_user(headers)
        identity = ExternalIdentity.parse(
            str(subject),
            email=address,
            email_verified=bool(address),
            display_name=user.get("name") or user.get("login"),
        )
        if identity is None:
            raise ProviderUnavailable
        return identity

    async def _address_of_user(self, headers: Mapping[str, str]) -> str:
        """Return the primary verified address, or "" unless there is exactly one."""
        answer = await self._client.get(f"{self._api_address}/user/emails", headers)
        if answer.status in {403, 404}:
            # The user did not grant the scope.
            return ""
        if answer.status != 200 or not isinstance(answer.content, list):
            raise ProviderUnavailable
        found = [item.get("email") for item in answer.content if _is_verified_primary(item)]
        return found[0] if len(found) == 1 and isinstance(found[0], str) else ""

    async def _token(self, code: str, verifier: str, redirect_uri: str) -> str:
        form = {
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.get_secret_value(),
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        }
        answer = await self._client.post(f"{self._address}/login/oauth/access_token", form)
        content = answer.object()
        # GitHub returns 200 even for errors.
        if content.get("error") in {"bad_verification_code", "invalid_grant"}:
            raise credentials_invalid()
        token = content.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ProviderUnavailable
        return token


def _is_verified_primary(item: Any) -> bool:
    return isinstance(item, dict) and item.get("primary") is True and item.get("verified") is True
