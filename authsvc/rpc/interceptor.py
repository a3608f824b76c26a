"""Owns what all calls pass through: request id, load, caller, access, deadline, errors, metrics.

One interceptor does all of it, as each additional one would slow down every call. What depends only
on the RPC is computed when it is first called.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.protobuf.message import DecodeError

from authsvc.config import GrpcSettings
from authsvc.conventions import ERROR_TYPE, RPC_METHOD, RPC_STATUS, RPC_SYSTEM
from authsvc.errors import (
    FieldInvalid,
    Overloaded,
    Reason,
    ServiceError,
    TooManyAttempts,
    bearer_invalid,
    impersonation_not_allowed,
)
from authsvc.measures import Counts
from authsvc.metrics import Metrics
from authsvc.models.tokens import Claims
from authsvc.rpc.access import ACCESS, Access
from authsvc.rpc.call_context import CALL, CallContext
from authsvc.rpc.call_log import CallLog
from authsvc.rpc.callers import Callers, rejected
from authsvc.rpc.connections import Connections
from authsvc.rpc.convert import client_ip
from authsvc.rpc.load import WRITE_SECONDS, Load
from authsvc.rpc.status import CODES, Effect, to_status
from authsvc.tracing import Span, SpanKind, Tracer

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

# Parsing keeps the event loop, and takes 50 ns for each item of a list, of which there could be one
# for every two bytes. All lists of batch requests are fields number 1.
_LIST_TAG = b"\n"
_MAX_LISTED = 50_000
_OK = grpc.StatusCode.OK.name
# The outcome of a call that succeeded.
_SUCCESS = (_OK, "")
# What the conventions of RPC count as the server's own failures.
_SERVER_FAILURES = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


@dataclass(frozen=True, slots=True)
class InterceptorDeps:
    """What the pipelines of all RPCs share.

    `authenticate_bearer` returns the claims of a user's access token, whose only actor may be an
    impersonator, or raises BEARER_INVALID.
    `overloaded` counts the calls that were shed, by what was full.
    `admit_address` raises IP_BLOCKED for a user's address that is blocked, and `note_refusal` gets
    those that exceeded a limit.
    """

    settings: GrpcSettings
    callers: Callers
    metrics: Metrics
    overloaded: Counts
    load: Load
    connections: Connections
    log: CallLog
    authenticate_bearer: Callable[[str], Awaitable[Claims]]
    admit_address: Callable[[str], Awaitable[None]]
    note_refusal: Callable[[str], Awaitable[None]]
    tls_1_3_only: bool
    tracer: Tracer | None


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of each RPC in a pipeline; unknown RPCs stay unimplemented."""

    def __init__(self, deps: InterceptorDeps) -> None:
        self._deps = deps
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the wrapped handler of an RPC, or None if there is no such RPC."""
        method: str = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _RpcPipeline(self._deps, method, handler).handler()
        # gRPC has parsed the metadata here anyway; reading it from the context would repeat that.
        CallContext.begin(handler_call_details.invocation_metadata)
        return wrapped


class _RpcPipeline:
    """Serves the calls of one RPC: admits them, calls the handler and reports the outcome."""

    def __init__(self, deps: InterceptorDeps, method: str, handler: "Handler") -> None:
        self._deps = deps
        self._name = method.removeprefix("/")
        self._inner = handler
        # The type stubs describe only synchronous handlers.
        self._handle: Callable[[Any, Context], Any] = cast(
            "Any",
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream,
        )
        self._deserialize = cast("Callable[[bytes], Any]", handler.request_deserializer)
        self._serialize = cast("Callable[[Any], bytes]", handler.response_serializer)
        self._reads_one = not handler.request_streaming
        self._access = access = ACCESS.get(method, Access())
        self._meter = deps.metrics.calls.method(method)
        self._log = deps.log.method(method, read_only=access.read_only)
        settings = deps.settings
        self._timeout = settings.call_timeout.total_seconds()
        self._max_bytes = (
            settings.max_batch_message_bytes if access.batch else settings.max_message_bytes
        )

    def handler(self) -> "Handler":
        """Return the handler that gRPC calls in place of the registered one.

        Even a single request is read here, after its caller is admitted: gRPC would wait for it
        without a time limit before calling the handler. And a response stream is written here, so
        that every failure occurs here.
        """
        inner = self._inner
        parse = self._parse if inner.request_streaming else None
        if inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self.stream, parse, None)
        return grpc.stream_unary_rpc_method_handler(self.unary, parse, None)

    async def unary(self, messages: Any, context: "Context") -> bytes:
        """Serve a call with one response; return its bytes."""
        call = CALL.get()
        try:
            request = await self._enter(call, messages, context)
            call.begun = True
            try:
                answer = await self._handle(request, context)
            except TooManyAttempts as refusal:
                if refusal.ip is not None:
                    await self._deps.note_refusal(refusal.ip)
                raise
            response = self._serialize(answer)
        except BaseException as error:  # noqa: BLE001 - the last resort; it raises in any case
            await self._fail(error, call, context)
        self._end(call)
        return response

    async def stream(self, messages: Any, context: "Context") -> None:
        """Serve a call with a stream of responses."""
        call = CALL.get()
        try:
            request = await self._enter(call, messages, context)
            call.begun = True
            async with aclosing(self._handle(request, context)) as responses:
                async for response in responses:
                    # What many streams are sent has been serialized for all of them.
                    encoded = response if type(response) is bytes else self._serialize(response)
                    call.write_expiry = monotonic() + WRITE_SECONDS
                    await context.write(encoded)
                    call.write_expiry = inf
        except BaseException as error:  # noqa: BLE001 - the last resort; it raises in any case
            await self._fail(error, call, context)
        self._end(call)

    async def _enter(self, call: CallContext, messages: Any, context: "Context") -> Any:
        """Admit a call; return its request, which is one message or an iterator of messages."""
        access = self._access
        self._admit(call, context)
        if access.bearer:
            call.claims = claims = await self._deps.authenticate_bearer(call.bearer())
            if claims.actors and not access.impersonated:
                raise impersonation_not_allowed("An impersonated session must not do this.")
        request = messages
        if self._reads_one:
            message = await context.read()
            if message is grpc.aio.EOF:
                raise FieldInvalid("", "The request message is missing.")
            request = self._parse(cast("bytes", message))
        if access.screened and (ip := client_ip(request.client)) is not None:
            await self._deps.admit_address(ip)
        if access.long_lived:
            call.endless = access.endless
            call.pool.let_last(call)
        return request

    def _admit(self, call: CallContext, context: "Context") -> None:
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        deps, access = self._deps, self._access
        connection = context.auth_context()
        certificates = tuple(connection.get("x509_pem_cert", ()))
        if not certificates:
            raise rejected("there is no certificate")
        certificate = deps.callers.identify(certificates[0])
        call.caller, call.key, call.servicer = certificate.caller, certificate.key, context
        if deps.tracer is not None:
            # Strangers don't decide what is traced.
            headers = call.trace_headers if certificate.caller.roles else ()
            call.span = deps.tracer.begin(
                self._name, SpanKind.SERVER, began=call.started, headers=headers
            )
        deps.load.pool(certificate.caller, access).enter(call, self._timeout)
        if not access.any_certificate and access.roles.isdisjoint(certificate.caller.roles):
            raise rejected(certificate.flaw or "its roles don't include this RPC")
        if deps.tls_1_3_only and tuple(connection.get("ssl_tls_version", ())) != (b"TLSv1.3",):
            raise rejected("the connection uses a TLS version below 1.3")
        if not access.any_certificate:
            deps.connections.permitted(call.peer())

    def _parse(self, message: bytes) -> Any:
        if len(message) > self._max_bytes:
            raise FieldInvalid("", f"The message is larger than {self._max_bytes} bytes.")
        if self._access.batch and message.count(_LIST_TAG) > _MAX_LISTED:
            raise FieldInvalid("", "The message has too many items.")
        try:
            return self._deserialize(message)
        except DecodeError:
            raise FieldInvalid("", "The message can't be parsed.") from None

    def _end(self, call: CallContext) -> None:
        self._deps.load.leave(call)
        seconds = perf_counter() - call.started
        self._meter.record(_SUCCESS, seconds)
        if call.span is not None:
            self._end_span(call.span, _OK, "", seconds)
        if self._log.logs_success:
            self._log.succeeded(call, seconds)

    async def _fail(self, error: BaseException, call: CallContext, context: "Context") -> NoReturn:
        """Report a failure to the caller, the metrics and the log; always raise."""
        cut_off = self._deps.load.leave(call)
        error = cut_off or error
        seconds = perf_counter() - call.started
        if isinstance(error, grpc.aio.BaseError) or not isinstance(error, Exception):
            code = _code_of_ended(error, context)
            self._meter.record((code.name, ""), seconds)
            self._log.ended(call, code.name, seconds)
            if call.span is not None:
                self._end_span(call.span, code.name, code.name, seconds)
            raise error
        if self._access.bearer and getattr(error, "reason", None) is Reason.USER_NOT_FOUND:
            # The token's user was deleted or disabled after the token was validated.
            error = bearer_invalid()
        reported = error if isinstance(error, ServiceError) else _internal()
        code = CODES[reported.reason]
        self._meter.record((code.name, reported.reason), seconds)
        if isinstance(reported, Overloaded):
            self._deps.overloaded.add(reported.what.value)
        self._log.failed(call, error, reported, seconds)
        if call.span is not None:
            self._end_span(call.span, code.name, reported.reason.value, seconds)
        effect = Effect.NONE if not call.begun else Effect.UNKNOWN if cut_off else None
        status = to_status(reported, call.request_id, effect)
        trailers = (
            ("x-request-id", call.request_id),
            ("grpc-status-details-bin", status.SerializeToString()),
        )
        await context.abort(code, reported.message, trailers)

    def _end_span(self, span: Span, code: str, error: str, seconds: float) -> None:
        span.attributes |= {RPC_SYSTEM: "grpc", RPC_METHOD: self._name, RPC_STATUS: code}
        if code in _SERVER_FAILURES:
            span.fail(error)
        elif error:
            span.attributes[ERROR_TYPE] = error
        self._meter.exemplify(seconds, {"trace_id": span.trace_id, "span_id": span.id})
        span.finish_trace()


def _code_of_ended(error: BaseException, context: "Context") -> grpc.StatusCode:
    """Return the code of a call aborted by its handler, or cancelled by its caller or by gRPC."""
    if isinstance(error, grpc.aio.AbortError):
        return context.code()
    if context.time_remaining() == 0:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _internal() -> ServiceError:
    return ServiceError(Reason.INTERNAL, "An internal error occurred.")
