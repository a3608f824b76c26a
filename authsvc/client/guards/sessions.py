"""Owns session cookies: browsers that send one instead of a token, and their anti-forgery token."""

import logging
import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC
from typing import Any, TypeAlias

from authsvc.client.connection import AsyncClient, Client
from authsvc.client.errors import AuthsvcError
from authsvc.client.guards.refusals import (
    CSRF_INVALID,
    INVALID_SESSION,
    NOT_DECIDABLE,
    ORIGIN_NOT_ALLOWED,
    Refused,
    scope_missing,
)
from authsvc.client.guards.requests import Request
from authsvc.client.identity import Identity
from authsvc.client.routes import Route
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.session_service_pb2 import (
    Session,
    ValidateSessionRequest,
    ValidateSessionResponse,
)

_log = logging.getLogger("authsvc.client")
_TOKEN = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,512}", re.ASCII)  # RFC 6265
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# Returns the end user's address and user agent; takes the scope of ASGI, or the environ of WSGI.
ClientOf: TypeAlias = Callable[[Any], ClientContext]
ScopesOf: TypeAlias = Callable[[Session], Collection[str]]


def _no_scopes(_session: Session) -> Collection[str]:
    return ()


class _CookieSessions:
    """What both kinds have in common: all that needs no call."""

    def __init__(
        self,
        *,
        cookie: str,
        client_of: ClientOf,
        csrf_header: str = "x-csrf-token",
        scopes_of: ScopesOf = _no_scopes,
        origins: Iterable[str] = (),
    ) -> None:
        self._cookie = cookie
        self._client_of = client_of
        self._csrf_header = csrf_header.lower()
        self._scopes_of = scopes_of
        self._origins = frozenset(origins)

    def token_of(self, request: Request) -> str:
        """Return the session token in a request's cookies, or "".

        Raises:
            Refused: There are two, or it can't be one.
        """
        found = {value for name, value in request.cookies() if name == self._cookie and value}
        if not found:
            return ""
        token = found.pop()
        # With two, a neighbouring site may have planted one (RFC 6265, section 8.6).
        if found or not _TOKEN.fullmatch(token):
            raise Refused(INVALID_SESSION)
        return token

    def _question(self, token: str, request: Request, route: Route) -> ValidateSessionRequest:
        if route.audience is not None:
            raise Refused(INVALID_SESSION)  # only a token is for somebody
        if request.is_websocket and request.header("origin") not in self._origins:
            raise Refused(ORIGIN_NOT_ALLOWED)
        return ValidateSessionRequest(
            session_token=token,
            client=self._client_of(request.raw),
            csrf_token=request.header(self._csrf_header)[:512],
        )

    def _identity(
        self, response: ValidateSessionResponse, request: Request, route: Route
    ) -> Identity:
        if not response.active:
            raise Refused(INVALID_SESSION)
        # A web socket begins with a GET that no header can be added to; its origin was checked.
        if request.method not in _SAFE_METHODS and not response.csrf_valid:
            raise Refused(CSRF_INVALID)
        identity = _identity_of(response.session, self._scopes_of(response.session))
        if not identity.scopes.issuperset(route.scopes):
            raise Refused(scope_missing(route.scopes))
        return identity


class AsyncCookieSessions(_CookieSessions):
    """Accepts session cookies besides tokens: each request is a ValidateSession.

    Requests that change something (other methods than GET, HEAD and OPTIONS) also need the
    session's anti-forgery token in a header. Web sockets need an allowed origin instead, as a
    browser opens them for any site and adds the cookie.

    Args:
        client: The connection to the service; its certificate needs the role `app` or `edge`.
        cookie: The cookie's name: `sessions.cookie.name` of the service.
        client_of: Returns the end user's address and user agent, from the scope. Only you know
            which proxies of yours may be believed.
        csrf_header: The header with the anti-forgery token.
        scopes_of: Returns the scopes that a session has. Without it, cookies are refused by
            routes that demand scopes.
        origins: The origins that may open web sockets with a cookie, such as "https://example.org".
    """

    def __init__(self, client: AsyncClient, **options: Any) -> None:
        super().__init__(**options)
        self._client = client

    async def identify(self, token: str, request: Request, route: Route) -> Identity:
        """Return whose session it is; raise Refused if the request must not pass."""
        question = self._question(token, request, route)
        try:
            response = await self._client.sessions.ValidateSession(question)
        except AuthsvcError as error:
            raise _undecided(error) from None
        return self._identity(response, request, route)


class CookieSessions(_CookieSessions):
    """The twin of AsyncCookieSessions for WSGI; `client_of` takes the environ."""

    def __init__(self, client: Client, **options: Any) -> None:
        super().__init__(**options)
        self._client = client

    def identify(self, token: str, request: Request, route: Route) -> Identity:
        """Return whose session it is; raise Refused if the request must not pass."""
        question = self._question(token, request, route)
        try:
            response = self._client.sessions.ValidateSession(question)
        except AuthsvcError as error:
            raise _undecided(error) from None
        return self._identity(response, request, route)


def _undecided(error: AuthsvcError) -> Refused:
    _log.warning("a session could not be validated: %s", error)
    return Refused(NOT_DECIDABLE)


def _identity_of(session: Session, scopes: Collection[str]) -> Identity:
    created = session.create_time.ToDatetime(UTC)
    ends = (session.idle_expire_time, session.absolute_expire_time)
    return Identity(
        kind="user",
        subject=session.user_id,
        user_id=session.user_id,
        service="",
        session_id=session.session_id,
        roles=(),
        permissions=(),
        scopes=frozenset(scopes),
        authentication_methods=tuple(session.authentication_methods),
        authentication_time=created,
        issue_time=created,
        expire_time=min(end.ToDatetime(UTC) for end in ends),
        actors=(session.impersonator,) if session.impersonator else (),
        audiences=(),
        token_id="",
        key_id="",
        is_bound=False,
    )
