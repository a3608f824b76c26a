"""Owns the gRPC server: its port, TLS, limits, services, health and graceful shutdown."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from authsvc.app.addresses import split_address, unix_path, why_unusable, with_port
from authsvc.app.handshake import presented_certificate
from authsvc.config import CallerSettings, GrpcSettings, Settings
from authsvc.errors import Resource, ServerError
from authsvc.measures import Counts
from authsvc.metrics import Metrics
from authsvc.models.clock import Clock
from authsvc.models.tokens import Claims
from authsvc.rpc.call_log import CallLog
from authsvc.rpc.callers import Callers
from authsvc.rpc.connections import Connections
from authsvc.rpc.descriptors import half_close, is_connected, stop_listening
from authsvc.rpc.health import Health
from authsvc.rpc.interceptor import Interceptor, InterceptorDeps
from authsvc.rpc.load import Load
from authsvc.rpc.sockets import newest_server_id
from authsvc.rpc.tls import ServerCertificate
from authsvc.tracing import Tracer
from authsvc.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    auth_service_pb2_grpc,
    rate_limit_service_pb2_grpc,
    session_service_pb2_grpc,
)

SERVICES: Mapping[str, tuple[type, Callable[[Any, Any], None]]] = MappingProxyType(
    {
        "authsvc.v1.AccountService": (
            account_service_pb2_grpc.AccountServiceServicer,
            account_service_pb2_grpc.add_AccountServiceServicer_to_server,
        ),
        "authsvc.v1.AdminService": (
            admin_service_pb2_grpc.AdminServiceServicer,
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server,
        ),
        "authsvc.v1.AuthService": (
            auth_service_pb2_grpc.AuthServiceServicer,
            auth_service_pb2_grpc.add_AuthServiceServicer_to_server,
        ),
        "authsvc.v1.RateLimitService": (
            rate_limit_service_pb2_grpc.RateLimitServiceServicer,
            rate_limit_service_pb2_grpc.add_RateLimitServiceServicer_to_server,
        ),
        "authsvc.v1.SessionService": (
            session_service_pb2_grpc.SessionServiceServicer,
            session_service_pb2_grpc.add_SessionServiceServicer_to_server,
        ),
    }
)

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1ALPHA = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
# gRPC's own limit rejects calls without error details, so it is higher than the interceptor's.
_SPARE_RPCS = 64
# What the kernel and gRPC read of a connection in advance.
_READ_BYTES = 131_072
# How long a stopping server leaves connections to its clients, so that they read of it before a
# call can meet the end of its connection.
_NOTICE = 1.0
_NOTICE_STEP = 0.05
# How long calls that a drain cancelled may take to say so.
_LAST_WORDS = 1.0


class Server:
    """The gRPC server; `port` is known once it has started.

    `overloaded` counts the calls that were shed, by what was full.

    Raises:
        ServerError: The address is invalid or the certificates can't be used; the message says why.
    """

    port: int

    def __init__(  # noqa: PLR0913 - all but the settings are parts
        self,
        *,
        settings: Settings,
        handlers: Iterable[object],
        authenticate_bearer: Callable[[str], Awaitable[Claims]],
        admit_address: Callable[[str], Awaitable[None]],
        note_refusal: Callable[[str], Awaitable[None]],
        clock: Clock,
        metrics: Metrics,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        tracer: Tracer | None = None,
    ) -> None:
        # gRPC takes no empty host for all interfaces.
        address = settings.grpc.address
        self._address = f"[::]{address}" if address.startswith(":") else address
        self._unix_path = unix_path(self._address)
        if self._unix_path is None:
            split_address(self._address)  # gRPC would listen on 34463 instead of 99999
        self.certificate = ServerCertificate(settings.tls)
        self._callers = Callers(settings.callers, clock)
        self._health = Health(SERVICES)
        self._load = load = Load(settings.grpc)
        self._log = CallLog()
        self.connections = Connections(settings.grpc, self._callers)
        self.overloaded = Counts(*((what.value,) for what in Resource))
        deps = InterceptorDeps(
            settings=settings.grpc,
            callers=self._callers,
            metrics=metrics,
            overloaded=self.overloaded,
            load=load,
            connections=self.connections,
            log=self._log,
            authenticate_bearer=authenticate_bearer,
            admit_address=admit_address,
            note_refusal=note_refusal,
            tls_1_3_only=settings.tls.min_version == "1.3",
            tracer=tracer,
        )
        self._server = grpc.aio.server(
            interceptors=[*interceptors, Interceptor(deps)],
            options=_options(settings.grpc),
            maximum_concurrent_rpcs=load.limit + _SPARE_RPCS,
        )
        self._id = newest_server_id()
        _register(self._server, handlers, self._health, reflect=settings.grpc.reflection)

    @property
    def in_flight(self) -> int:
        """The number of calls in progress, of callers that have a role."""
        return len(self._load.calls)

    async def start(self) -> None:
        """Listen; health reports NOT_SERVING until `set_serving`.

        Raises:
            ServerError: The address can't be listened on, or the certificate can't be used.
        """
        credentials = self.certificate.credentials(self.connections.opened)
        try:
            self.port = self._server.add_secure_port(self._address, credentials)
        except RuntimeError:
            cause = why_unusable(self._address) or "the TLS certificate can't be used"
            raise ServerError(f"gRPC can't listen on {self._address}: {cause}") from None
        await self._server.start()
        if not self._unix_path:
            self.connections.start(self._id, self.port)
        try:
            await self.certificate.confirm(self._presented)
        except BaseException:
            await self.stop()
            raise

    async def reload_certificate(self) -> None:
        """Reload the certificate, the key and the client authorities if their files changed."""
        await self.certificate.reload(self._presented)

    def set_serving(self, *, serving: bool) -> None:
        """Set whether health reports SERVING."""
        self._health.set_serving(serving=serving)

    def replace_callers(self, callers: Sequence[CallerSettings]) -> None:
        """Replace the known callers; takes effect from the next call on."""
        self._callers.replace(callers)

    async def _presented(self) -> bytes:
        return await presented_certificate(with_port(self._address, self.port))

    async def drain(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, and give those in progress `grace` seconds.

        For a second, connections are left to their clients: they close those over which a call was
        refused. Then a connection is closed as soon as no call is in progress on it. gRPC's own
        shutdown comes last: it ends calls that it has received but not yet passed on as CANCELLED,
        and so it does with those that are under way until clients have read that the server is
        shutting down.
        """
        self._health.end()
        local = self._unix_path or self.port
        stop_listening(local)
        self._load.refuse()
        ends = asyncio.get_running_loop().time() + grace
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_NOTICE, grace)):
                while is_connected(local):  # noqa: ASYNC110 - the kernel reports no such event
                    await asyncio.sleep(_NOTICE_STEP)
        for latest in (ends, ends + _LAST_WORDS):
            with suppress(TimeoutError):
                async with asyncio.timeout_at(latest):
                    async for peers in self._load.drain():
                        half_close(local, keep=peers)
            self._load.stop()
        half_close(local)
        await self.stop()

    async def stop(self) -> None:
        """Stop immediately; does nothing after `drain`."""
        self.connections.stop()
        await self._server.stop(None)
        self._log.flush()


class _Registrar:
    """Replaces the server while generated code registers a service.

    It forwards only the generic handlers. If methods are also registered one by one, grpc.aio keeps
    a pending request for each of them and waits for all of these again after every call: 20 µs per
    call with 30 methods.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        """Do nothing."""


def _register(
    server: grpc.aio.Server, handlers: Iterable[object], health: Health, *, reflect: bool
) -> None:
    registrar = _Registrar(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, registrar)
    for handler in handlers:
        for servicer, add in SERVICES.values():
            if isinstance(handler, servicer):
                add(handler, registrar)
    if reflect:
        servicer = reflection.ReflectionServicer([*SERVICES, _HEALTH, _REFLECTION_V1ALPHA])
        method = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        for name in (_REFLECTION_V1, _REFLECTION_V1ALPHA):
            handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
            server.add_generic_rpc_handlers((handler,))


def _options(settings: GrpcSettings) -> list[tuple[str, int]]:
    def milliseconds(duration: timedelta) -> int:
        return max(1, int(duration.total_seconds() * 1_000))

    pending = (
        settings.max_connections_of_strangers * settings.max_concurrent_streams
        + settings.max_concurrent_rpcs
    )
    return [
        # A second server on the same port is a mistake, and would receive half of the calls.
        ("grpc.so_reuseport", 0),
        (
            "grpc.max_receive_message_length",
            max(settings.max_message_bytes, settings.max_batch_message_bytes),
        ),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # By default, gRPC cancels calls of anybody once a thousand wait to be taken, and strangers
        # alone can have more than that.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending),
        # If enabled, it counts streams that have ended but are not yet cleaned up, and resets the
        # new ones of a well-behaved client: a busy client sees most of its calls fail. The limit
        # above applies without it, and `maximum_concurrent_rpcs` limits the work.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", milliseconds(settings.handshake_timeout)),
        # A client that does not acknowledge them is not bound by the limits above.
        ("grpc.http2.settings_timeout", milliseconds(settings.handshake_timeout)),
        # gRPC interprets whatever it has read, even when the connection has ended.
        ("grpc.tcp_receive_buffer_size", _READ_BYTES),
        ("grpc.experimental.tcp_max_read_chunk_size", _READ_BYTES),
        ("grpc.experimental.tcp_max_read_buffer_size", _READ_BYTES),
        ("grpc.max_connection_age_ms", milliseconds(settings.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", milliseconds(settings.drain_timeout)),
        ("grpc.max_connection_idle_ms", milliseconds(settings.max_connection_idle)),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            milliseconds(settings.min_ping_interval),
        ),
        ("grpc.http2.max_ping_strikes", 2),
        # Otherwise a client without calls may ping only once in two hours.
        ("grpc.keepalive_permit_without_calls", 1),
        # The size of a compressed message is unknown before it is read, and tokens don't compress.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
