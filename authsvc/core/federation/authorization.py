"""Owns the start of a login at an external provider."""

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
    """The URL to send a user's browser to, and the state that it will come back with."""

    url: str = field(repr=False)
    state: str = field(repr=False)


class OAuthStart:
    """Starts logins at external providers."""

    def __init__(
        self,
        *,
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
        """Start a login or, with a user's access token, the linking of an identity.

        The redirect URI is compared character by character (RFC 9700, section 2.1).

        Raises:
            FieldInvalid: There is no such provider; REDIRECT_NOT_ALLOWED.
            TooManyAttempts: Too many logins were started from the client's IP address.
            Unauthenticated: BEARER_INVALID: the access token is not active.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, when linking.
            ProviderUnavailable: The provider did not return its authorization endpoint.
        """
        if provider not in self._providers:
            raise FieldInvalid("provider", "is not in the settings")
        if redirect_uri not in self._redirect_uris:
            raise redirect_not_allowed()
        await self._brute_force.charge_oauth(client)
        session_id = await self._link_session(link_access_token) if link_access_token else None
        login = PendingLogin.new(provider, redirect_uri, session_id)
        async with self._providers.use(provider) as used:
            url = await used.authorization_url(
                login.state, login.nonce, login.code_challenge, redirect_uri
            )
        await self._states.keep(login)
        return Authorization(url, login.state)

    async def _link_session(self, access_token: str) -> SessionId:
        claims = await self._tokens.bearer(access_token)
        self._recent_login.require(claims)
        return claims.session_id
