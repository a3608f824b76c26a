"""Owns the guard of a WSGI application."""

import contextvars
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, TypeAlias

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.guards.credentials import bearer_token, der_of
from authsvc.client.guards.current import Serving
from authsvc.client.guards.refusals import (
    NO_CREDENTIALS,
    PATH_INVALID,
    Refusal,
    Refused,
    refusal_of,
)
from authsvc.client.guards.requests import Request
from authsvc.client.guards.sessions import CookieSessions
from authsvc.client.identity import Identity
from authsvc.client.routes import AmbiguousPath, Route, Routes
from authsvc.client.verifier import Verifier

_Environ: TypeAlias = dict[str, Any]
_StartResponse: TypeAlias = Callable[..., Any]
_App: TypeAlias = Callable[[_Environ, _StartResponse], Iterable[bytes]]


class WsgiGuard:
    """Checks the token, or the session cookie, of each request to a WSGI application.

    The twin of AsgiGuard. The application learns from `current_identity()`, or
    `environ["authsvc.identity"]`, who sent a request. Credentials are checked when a request
    begins; `Route.recheck` has no effect.

    Args:
        app: The application.
        verifier: The verifier, which you start: in each worker, after the fork.
        routes: The rules; without them, everything needs a token.
        cookies: Accepts session cookies as well.
    """

    def __init__(
        self,
        app: _App,
        verifier: Verifier,
        routes: Routes | None = None,
        *,
        cookies: CookieSessions | None = None,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._routes = routes or Routes()
        self._cookies = cookies

    def __call__(self, environ: _Environ, start_response: _StartResponse) -> Iterable[bytes]:
        """Serve a request, as WSGI prescribes."""
        request = _read(environ)
        try:
            route = self._routes.find(request.path, request.method)
            token, identity = self._identify(request, route)
        except AmbiguousPath:
            return _refuse(PATH_INVALID, request, start_response)
        except Refused as error:
            return _refuse(error.refusal, request, start_response)
        environ["authsvc.identity"] = identity
        # Threads are used again, and a response may be produced while it is sent.
        own = contextvars.copy_context()
        own.run(Serving(dict(request.headers), identity=identity, token=token).set)
        response = own.run(self._app, environ, start_response)
        return response if isinstance(response, list | tuple) else _Within(own, response)

    def _identify(self, request: Request, route: Route) -> tuple[str, Identity | None]:
        """Return the access token and who sent a request; "" and None where nobody is asked."""
        if route.public:
            return "", None
        token = bearer_token(request.all("authorization"))
        if token:
            return token, self._verify(token, request, route)
        session = self._cookies.token_of(request) if self._cookies is not None else ""
        if self._cookies is None or not session:
            raise Refused(NO_CREDENTIALS)
        return "", self._cookies.identify(session, request, route)

    def _verify(self, token: str, request: Request, route: Route) -> Identity:
        try:
            return self._verifier.authenticate(
                token,
                audience=route.audience,
                scopes=route.scopes,
                # Set by servers that end TLS: no header has such a name.
                certificate=der_of(request.raw.get("SSL_CLIENT_CERT") or ""),
                when_degraded=route.when_degraded,
            )
        except (TokenRejected, NotDecidable) as error:
            raise Refused(refusal_of(error, route.scopes)) from None


class _Within:
    """A response that is produced in a context of its own."""

    def __init__(self, own: contextvars.Context, response: Iterable[bytes]) -> None:
        self._own = own
        self._response = response
        self._parts = own.run(iter, response)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._own.run(next, self._parts)

    def close(self) -> None:
        """Tell the application that the response ends, as WSGI prescribes."""
        close = getattr(self._response, "close", None)
        if close is not None:
            self._own.run(close)


def _read(environ: _Environ) -> Request:
    headers = [
        (name[5:].replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    path = environ.get("PATH_INFO") or "/"
    return Request(
        method=environ["REQUEST_METHOD"].upper(),
        path=path.encode("latin-1").decode("utf-8", "replace"),
        headers=headers,
        is_websocket=False,
        raw=environ,
    )


def _refuse(refusal: Refusal, request: Request, start_response: _StartResponse) -> list[bytes]:
    status = HTTPStatus(refusal.status)
    start_response(f"{status.value} {status.phrase}", refusal.headers())
    return [] if request.method == "HEAD" else [refusal.body()]
