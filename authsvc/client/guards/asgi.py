"""Owns the guard of an ASGI application."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeAlias

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.guards.credentials import bearer_token, der_of
from authsvc.client.guards.current import Serving
from authsvc.client.guards.ending import cancelled
from authsvc.client.guards.refusals import (
    NO_CREDENTIALS,
    PATH_INVALID,
    Refusal,
    Refused,
    refusal_of,
)
from authsvc.client.guards.requests import Request
from authsvc.client.guards.sessions import AsyncCookieSessions
from authsvc.client.identity import Identity
from authsvc.client.routes import AmbiguousPath, Route, Routes
from authsvc.client.verifier import AsyncVerifier

_Scope: TypeAlias = MutableMapping[str, Any]
_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]
_OpenVerifier: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncVerifier]]


class AsgiGuard:
    """Checks the token, or the session cookie, of each request to an ASGI application.

    Requests without credentials, or with bad ones, get 401; 403 if a scope is missing; 503 if
    nothing can be decided. The application learns from `current_identity()`, or
    `scope["authsvc"]`, who sent a request. Where both a token and a cookie are sent, only the token
    counts.

    Credentials are checked when a request or web socket begins; see `Route.recheck`.

    Args:
        app: The application.
        verifier: The verifier, which you start, or a function that returns it as an asynchronous
            context manager: the guard enters it when the server starts.
        routes: The rules; without them, everything needs a token.
        cookies: Accepts session cookies as well.
    """

    def __init__(
        self,
        app: Any,
        verifier: AsyncVerifier | _OpenVerifier,
        routes: Routes | None = None,
        *,
        cookies: AsyncCookieSessions | None = None,
    ) -> None:
        self._app: _App = app
        self._verifier: AsyncVerifier | None = None
        self._open: _OpenVerifier | None = None
        if isinstance(verifier, AsyncVerifier):
            self._verifier = verifier
        else:
            self._open = verifier
        self._routes = routes or Routes()
        self._cookies = cookies

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve a request, as ASGI prescribes."""
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self, scope=scope, receive=receive, send=send).run()
            return
        if kind not in {"http", "websocket"}:
            raise ValueError(f"AsgiGuard can't guard {kind!r}")
        request = _read(scope)
        try:
            route = self._routes.find(request.path, request.method)
            token, identity = await self._identify(request, route)
        except AmbiguousPath:
            await _refuse(PATH_INVALID, scope, receive, send)
            return
        except Refused as error:
            await _refuse(error.refusal, scope, receive, send)
            return
        scope["authsvc"] = identity
        with Serving(dict(request.headers), identity=identity, token=token):
            if route.recheck is None or route.public:
                await self._app(scope, receive, send)
            else:
                await self._supervise(route, request, receive, send)

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open the verifier, if the guard has to."""
        if self._open is not None:
            self._verifier = await stack.enter_async_context(self._open())

    @property
    def app(self) -> _App:
        """The application."""
        return self._app

    async def _identify(self, request: Request, route: Route) -> tuple[str, Identity | None]:
        """Return the access token and who sent a request; "" and None where nobody is asked."""
        if route.public:
            return "", None
        token = bearer_token(request.all("authorization"))
        if token:
            return token, await self._verify(token, request, route)
        session = self._cookies.token_of(request) if self._cookies is not None else ""
        if self._cookies is None or not session:
            raise Refused(NO_CREDENTIALS)
        return "", await self._cookies.identify(session, request, route)

    async def _verify(self, token: str, request: Request, route: Route) -> Identity:
        if self._verifier is None:
            raise RuntimeError("the verifier is not open: the server runs without lifespan")
        try:
            return await self._verifier.authenticate(
                token,
                audience=route.audience,
                scopes=route.scopes,
                certificate=_certificate(request.raw),
                when_degraded=route.when_degraded,
            )
        except (TokenRejected, NotDecidable) as error:
            raise Refused(refusal_of(error, route.scopes)) from None

    async def _supervise(
        self, route: Route, request: Request, receive: _Receive, send: _Send
    ) -> None:
        """Run the application until it ends, or until its credentials are refused."""
        call = asyncio.ensure_future(self._app(request.raw, receive, send))
        try:
            while not (await asyncio.wait({call}, timeout=route.recheck))[0]:
                await self._identify(request, route)
        except Refused as error:
            await cancelled(call)
            if request.is_websocket:
                code = error.refusal.close_code
                with contextlib.suppress(Exception):  # it may have closed the socket itself
                    await send({"type": "websocket.close", "code": code})
            return
        finally:
            await cancelled(call)
        call.result()


class _Lifespan:
    """The life of the server: the verifier is open within that of the application.

    An application without a lifespan of its own need not know that there is one.
    """

    def __init__(self, guard: AsgiGuard, *, scope: _Scope, receive: _Receive, send: _Send) -> None:
        self._guard = guard
        self._scope = scope
        self._receive = receive
        self._send = send
        self._stack = AsyncExitStack()
        self._is_started = False
        self._has_answered = False

    async def run(self) -> None:
        async with self._stack:
            try:
                await self._guard.app(self._scope, self._receive_for_app, self._send_for_app)
            except _StartFailed:
                return
            except Exception:
                # As servers do: it does not support lifespan.
                if self._has_answered:
                    raise
            if not self._has_answered:
                await self._run_alone()

    async def _run_alone(self) -> None:
        if not self._is_started:
            with contextlib.suppress(_StartFailed):
                await self._receive_for_app()
            if self._has_answered:
                return
        await self._send({"type": "lifespan.startup.complete"})
        await self._receive()
        await self._stack.aclose()
        await self._send({"type": "lifespan.shutdown.complete"})

    async def _receive_for_app(self) -> _Message:
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            try:
                await self._guard.enter(self._stack)
            except Exception as error:
                self._has_answered = True
                failed = {"type": "lifespan.startup.failed", "message": f"authsvc: {error}"}
                await self._send(failed)
                raise _StartFailed from error
            self._is_started = True
        return message

    async def _send_for_app(self, message: _Message) -> None:
        self._has_answered = True
        if message["type"].startswith("lifespan.shutdown."):
            await self._stack.aclose()
        await self._send(message)


class _StartFailed(Exception):
    """The verifier could not be opened; the server knows."""


def _read(scope: _Scope) -> Request:
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    if root and path.startswith(f"{root}/"):
        path = path[len(root) :]
    is_websocket = scope["type"] == "websocket"
    return Request(
        method="GET" if is_websocket else scope["method"].upper(),
        path=path,
        headers=[(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]],
        is_websocket=is_websocket,
        raw=scope,
    )


def _certificate(scope: _Scope) -> bytes | None:
    """Return the client's certificate, from servers that know the TLS extension of ASGI."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    for pem in tls.get("client_cert_chain") or ():
        return der_of(pem)
    return None


async def _refuse(refusal: Refusal, scope: _Scope, receive: _Receive, send: _Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            # Before it is accepted, servers answer this with 403.
            await send({"type": "websocket.close", "code": refusal.close_code})
            return
        prefix = "websocket.http.response"
    else:
        prefix = "http.response"
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers()]
    await send({"type": f"{prefix}.start", "status": refusal.status, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else refusal.body()
    await send({"type": f"{prefix}.body", "body": body})
