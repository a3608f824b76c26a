"""Owns the context of the current call: its request id, its caller and the user it acts for."""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from itertools import count, islice
from math import inf
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING, Any

from authsvc.errors import bearer_invalid
from authsvc.log import REQUEST_ID
from authsvc.models.calls import Call, Caller
from authsvc.models.tokens import Claims
from authsvc.tracing import Span

if TYPE_CHECKING:
    import grpc

    from authsvc.rpc.load import InFlight, Places

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
# Of 32 bytes and more each, an honest caller's metadata has no more than this; a hostile peer may
# have sent thousands.
_MAX_ENTRIES = 1_000
_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})
_NOBODY = Caller(identity="", roles=frozenset(), thumbprint=b"")


class CallContext:
    """What is known about a call: at first its metadata, then what the interceptor adds.

    `begun` says whether its handler was called: if not, nothing of it was done.
    `key` says whose bounds the call counts against, and `endless`, `expiry`, `places`, `pool`,
    `servicer` and `write_expiry` belong to `InFlight`. `span` is None unless the call is traced;
    `trace_headers` are believed only of callers with a role.
    """

    __slots__ = (
        "authorizations",
        "begun",
        "caller",
        "claims",
        "endless",
        "expiry",
        "key",
        "places",
        "pool",
        "request_id",
        "servicer",
        "span",
        "started",
        "trace_headers",
        "write_expiry",
    )
    places: "Places | None"
    pool: "InFlight"
    servicer: "grpc.aio.ServicerContext[Any, Any]"

    def __init__(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self.started = perf_counter()
        self.request_id = ""
        self.authorizations: list[str] = []
        self.begun = False
        self.caller = _NOBODY
        self.claims: Claims | None = None
        self.key = ""
        self.expiry = 0.0
        self.endless = False
        self.write_expiry = inf
        self.span: Span | None = None
        self.trace_headers: list[tuple[str, str | bytes]] = []
        for key, value in islice(metadata, _MAX_ENTRIES):
            if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
                self.request_id = value
            elif key == "authorization":
                self.authorizations.append(str(value))
            elif key in _TRACE_HEADERS:
                self.trace_headers.append((key, value))
        if not self.request_id:
            self.request_id = new_request_id()

    @classmethod
    def begin(cls, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Make a new call with this metadata the current task's."""
        call = cls(metadata)
        CALL.set(call)
        REQUEST_ID.set(call.request_id)

    def peer(self) -> str:
        """Return the other end of the call's connection, as gRPC writes it."""
        return str(self.servicer.peer())

    def bearer(self) -> str:
        """Return the token of the one `authorization: Bearer …` (RFC 6750, section 2.1).

        Raises:
            Unauthenticated: BEARER_INVALID: it is missing, repeated or of another scheme.
        """
        if len(self.authorizations) != 1:
            raise bearer_invalid()
        scheme, _, token = self.authorizations[0].partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise bearer_invalid()
        return token


CALL: ContextVar[CallContext] = ContextVar("call")


def current_call() -> Call:
    """Return the caller's identity and the request id; LookupError outside a call."""
    call = CALL.get()
    return Call(request_id=call.request_id, caller=call.caller.identity)


def current_caller() -> Caller:
    """Return the calling service; LookupError outside a call."""
    return CALL.get().caller


def current_claims() -> Claims:
    """Return the claims of the user's access token; LookupError unless the RPC requires one."""
    claims = CALL.get().claims
    if claims is None:
        raise LookupError("this RPC's row in the access table doesn't require a bearer token")
    return claims


_numbers = count(1)
_prefix = token_hex(8)


def new_request_id() -> str:
    """Return an id that is unique across replicas; it may be easy to guess."""
    return f"{_prefix}-{next(_numbers):x}"
