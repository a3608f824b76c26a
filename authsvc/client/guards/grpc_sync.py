"""Owns the guard of a gRPC server with threads."""

import contextvars
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.guards.aio import Handler, behavior_of, handler_like, route_of
from authsvc.client.guards.credentials import peer_certificate, token_of
from authsvc.client.guards.current import Serving, deadline_in
from authsvc.client.guards.refusals import Refused, refusal_of
from authsvc.client.identity import Identity
from authsvc.client.routes import Route, Routes
from authsvc.client.verifier import Verifier

# The token and the client certificate.
_Credentials: TypeAlias = tuple[str, bytes | None]


class SyncGuard(grpc.ServerInterceptor):
    """Checks the token of each call of a gRPC server with threads: the twin of AioGuard.

    With `Route.recheck`, a stream's token is checked again when a message of it is passed on: it
    ends with the first message after its token was refused.

    Args:
        verifier: The verifier, which you start.
        routes: The rules by full method; without them, every method needs a token.
    """

    def __init__(self, verifier: Verifier, routes: Routes | None = None) -> None:
        self._verifier = verifier
        self._routes = routes or Routes()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, guarded."""
        handler = continuation(handler_call_details)
        if not handler:
            return handler  # gRPC answers UNIMPLEMENTED
        return self._guard(handler, route_of(self._routes, str(handler_call_details.method)))

    def _guard(self, handler: Handler, route: Route) -> Handler:
        behavior = behavior_of(handler)

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            credentials, identity = self._admit(route, context)
            deadline = deadline_in(context.time_remaining())
            serving = Serving(
                dict(context.invocation_metadata()),
                identity=identity,
                token=credentials[0],
                deadline=deadline,
            )
            # Threads are used again, and take turns with a stream.
            own = contextvars.copy_context()
            own.run(serving.set)
            check = self._new_check(credentials, route, context)
            if handler.request_streaming:
                request = _checked(request, check)
            answer = own.run(behavior, request, context)
            if handler.response_streaming:
                return _checked(_within(own, answer), check)
            return answer

        return handler_like(handler, guarded)

    def _admit(
        self, route: Route, context: grpc.ServicerContext
    ) -> tuple[_Credentials, Identity | None]:
        """Return a call's credentials and identity; abort the call if it is refused."""
        if route.public:
            return ("", None), None
        try:
            metadata = context.invocation_metadata()
            token = token_of(metadata, dict(metadata))
            credentials = token, peer_certificate(context.auth_context())
            return credentials, self._identify(credentials, route)
        except Refused as error:
            _abort(context, error)
            raise

    def _new_check(
        self, credentials: _Credentials, route: Route, context: grpc.ServicerContext
    ) -> Callable[[], None]:
        """Return a function that aborts the stream if its token is refused by now."""
        checked = time.monotonic()

        def check() -> None:
            nonlocal checked
            if route.public or route.recheck is None:
                return
            now = time.monotonic()
            if now - checked < route.recheck:
                return
            checked = now
            try:
                self._identify(credentials, route)
            except Refused as error:
                _abort(context, error)

        return check

    def _identify(self, credentials: _Credentials, route: Route) -> Identity:
        token, certificate = credentials
        try:
            return self._verifier.authenticate(
                token,
                audience=route.audience,
                scopes=route.scopes,
                certificate=certificate,
                when_degraded=route.when_degraded,
            )
        except (TokenRejected, NotDecidable) as error:
            raise Refused(refusal_of(error, route.scopes)) from None


def _checked(messages: Iterator[Any], check: Callable[[], None]) -> Iterator[Any]:
    for message in messages:
        check()
        yield message


def _within(own: contextvars.Context, messages: Iterator[Any]) -> Iterator[Any]:
    """Return the messages of a handler that runs in a context of its own."""
    iterator = iter(messages)
    end = object()
    while (message := own.run(next, iterator, end)) is not end:
        yield message


def _abort(context: grpc.ServicerContext, error: Refused) -> None:
    refusal = error.refusal
    context.set_trailing_metadata(refusal.trailers())
    context.abort(refusal.code, refusal.message)
