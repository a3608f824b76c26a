"""Owns the guard of a grpc.aio server."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.guards.credentials import peer_certificate, token_of
from authsvc.client.guards.current import Serving, deadline_in
from authsvc.client.guards.ending import cancelled
from authsvc.client.guards.refusals import Refused, refusal_of
from authsvc.client.identity import Identity
from authsvc.client.routes import AmbiguousPath, Route, Routes
from authsvc.client.verifier import AsyncVerifier

# Methods whose guarded handler is kept; more than a service has.
_MAX_METHODS = 1024

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class AioGuard(grpc.aio.ServerInterceptor):
    """Checks the token of each call of a grpc.aio server: `server(interceptors=[AioGuard(…)])`.

    A call without an accepted token fails with UNAUTHENTICATED, one whose token lacks a scope with
    PERMISSION_DENIED, and one on which nothing can be decided with UNAVAILABLE. The handler learns
    from `current_identity()` who called. Checks of health are open; reflection needs a token unless
    `routes` has it.

    The token of a stream is checked when it begins; see `Route.recheck`.

    Args:
        verifier: The verifier, which you start.
        routes: The rules by full method; without them, every method needs a token.
    """

    def __init__(self, verifier: AsyncVerifier, routes: Routes | None = None) -> None:
        self._verifier = verifier
        self._routes = routes or Routes()
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, guarded."""
        handler = await continuation(handler_call_details)
        if not handler:
            return handler  # gRPC answers UNIMPLEMENTED
        method = str(handler_call_details.method)
        known = self._guarded.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        guarded = self._guard(handler, route_of(self._routes, method), method)
        if len(self._guarded) >= _MAX_METHODS:
            self._guarded.clear()
        self._guarded[method] = (handler, guarded)
        return guarded

    def _guard(self, handler: Handler, route: Route, method: str) -> Handler:
        behavior = behavior_of(handler)
        is_coroutine = inspect.iscoroutinefunction(behavior)
        if not is_coroutine and not inspect.isasyncgenfunction(behavior):
            if route.public:
                return handler
            raise TypeError(f"{method} is not asynchronous: AioGuard guards only `async def`")
        if handler.response_streaming and not is_coroutine:
            behavior = _writing(behavior)

        async def guarded(request: Any, context: _Context) -> Any:
            metadata: Any = context.invocation_metadata() or ()
            entries = dict(metadata)
            token, identity = "", None
            if not route.public:
                try:
                    token = token_of(metadata, entries)
                    identity = await self._identify(token, route, context)
                except Refused as error:
                    await _abort(context, error)
            deadline = deadline_in(context.time_remaining())
            # A call has a task of its own.
            Serving(entries, identity=identity, token=token, deadline=deadline).set()
            if not is_stream or route.recheck is None or route.public:
                return await behavior(request, context)
            call = asyncio.ensure_future(behavior(request, context))
            return await self._supervise(call, token, route, context)

        is_stream = handler.request_streaming or handler.response_streaming
        return handler_like(handler, guarded)

    async def _identify(self, token: str, route: Route, context: _Context) -> Identity:
        authenticate = partial(
            self._verifier.authenticate,
            token,
            audience=route.audience,
            scopes=route.scopes,
            when_degraded=route.when_degraded,
        )
        try:
            try:
                return await authenticate()
            except TokenRejected as error:
                if error.reason != "CERTIFICATE_MISMATCH":
                    raise
                # Reading it costs more than the verification of most tokens, which aren't bound.
                return await authenticate(certificate=peer_certificate(context.auth_context()))
        except (TokenRejected, NotDecidable) as error:
            raise Refused(refusal_of(error, route.scopes)) from None

    async def _supervise(
        self,
        call: "asyncio.Future[Any]",
        token: str,
        route: Route,
        context: _Context,
    ) -> Any:
        """Return what a stream's handler returns, unless its token is refused meanwhile."""
        try:
            while not (await asyncio.wait({call}, timeout=route.recheck))[0]:
                await self._identify(token, route, context)
        except Refused as error:
            await cancelled(call)
            await _abort(context, error)
        finally:
            await cancelled(call)
        return call.result()


def route_of(routes: Routes, method: str) -> Route:
    """Return the rule of a full method, whatever its form."""
    try:
        return routes.find(method)
    except AmbiguousPath:
        return Route()


def behavior_of(handler: Handler) -> Any:
    """Return the function that handles the calls."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def handler_like(handler: Handler, behavior: Any) -> Handler:
    """Return a handler with another function, and what else it has unchanged."""
    kind = (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}_rpc_method_handler"
    )
    made: Handler = getattr(grpc, kind)(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


def _writing(behavior: Callable[..., AsyncIterator[Any]]) -> Callable[..., Awaitable[None]]:
    """Return a coroutine function that sends what an asynchronous generator yields."""

    async def write(request: Any, context: _Context) -> None:
        async for response in behavior(request, context):
            await context.write(response)

    return write


async def _abort(context: _Context, error: Refused) -> None:
    refusal = error.refusal
    await context.abort(refusal.code, refusal.message, refusal.trailers())
