"""The service's side of OpenID Connect, and a browser."""

from typing import Any

import aiohttp
import pytest

from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity
from authsvc.core.federation.states import PendingLogin
from authsvc.errors import Unauthenticated
from authsvc.outbound.oidc import OpenIdConnect
from tests.support.clock import FakeClock
from tests.support.provider import REDIRECT, LocalProvider, json_client

ADA = ExternalIdentity("ada", "ada@example.test", True, "Ada")


class Client:
    """The service's side, and a browser."""

    def __init__(
        self,
        provider: LocalProvider,
        http: aiohttp.ClientSession,
        clock: FakeClock,
        **settings: Any,
    ) -> None:
        self.provider = provider
        # What the redirect says about its issuer.
        self.iss = ""
        self.oidc = OpenIdConnect(provider.settings(**settings), json_client(http), clock)

    async def page(self, login: PendingLogin) -> str:
        return await self.oidc.authorization_url(
            login.state, login.nonce, login.code_challenge, login.redirect_uri
        )

    async def log_in(self, **claims: Any) -> ExternalIdentity:
        """Log in with these claims in the id_token."""
        login = PendingLogin.new("local", REDIRECT, None)
        code, state = self.provider.log_in(await self.page(login), **claims)
        assert state == login.state
        return await self.oidc.identify(
            AuthorizationAnswer(code, self.iss), login.verifier, login.nonce, REDIRECT
        )

    async def refused(self, **claims: Any) -> bool:
        with pytest.raises(Unauthenticated):
            await self.log_in(**claims)
        return True
