"""Owns the beginning of a login at another provider."""

from dataclasses import dataclass, field

from authsvc.config import OAuthSettings
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.federation.providers import Providers
from authsvc.core.federation.states import OAuthStates, PendingLogin
from authsvc.core.tokens.validation import TokenValidation
from authsvc.errors import FieldInvalid, redirect_not_allowed
from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId


@dataclass(frozen=True, slots=True)
class Authorization:
    """Where to send a user's browser, and the state that it comes back with."""

    url: str = field(repr=False)
    state: str = field(repr=False)


class OAuthStart:
    """Begins logins at other providers."""

    def __init__(
        self,
        states: OAuthStates,
        providers: Providers,
        settings: OAuthSettings,
        brute_force: BruteForce,
        tokens: TokenValidation,
        recent_login: RecentLogin,
    ) -> None:
        self._states = states
        self._providers = providers
        self._redirect_uris = frozenset(settings.redirect_uris)
        self._brute_force = brute_force
        self._tokens = tokens
        self._recent_login = recent_login

    async def begin(
        self, provider: str, redirect_uri: str, client: ClientContext, link_access_token: str
    ) -> Authorization:
        """Begin a login, or, with a user's access token, the linking of an identity.

        The redirect address is compared letter for letter (RFC 9700, section 2.1).

        Raises:
            FieldInvalid: There is no such provider; REDIRECT_NOT_ALLOWED.
            TooManyAttempts: Too many logins were begun from the client's ip.
            Unauthenticated: BEARER_INVALID: the access token is not active.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, to link.
            ProviderUnavailable: The provider doesn't tell where to send the browser.
        """
        if provider not in self._providers:
            raise FieldInvalid("provider", "is none of the settings")
        if redirect_uri not in self._redirect_uris:
            raise redirect_not_allowed()
        await self._brute_force.charge_oauth(client)
        session_id = await self._link_session(link_access_token) if link_access_token else None
        login = PendingLogin.new(provider, redirect_uri, session_id)
        async with self._providers.asked(provider) as asked:
            url = await asked.authorization_url(
                login.state, login.nonce, login.code_challenge, redirect_uri
            )
        await self._states.keep(login)
        return Authorization(url, login.state)

    async def _link_session(self, access_token: str) -> SessionId:
        claims = await self._tokens.bearer(access_token)
        self._recent_login.require(claims)
        return claims.session_id
