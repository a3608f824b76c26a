"""Owns the lifecycle of the service: opening everything in order, and closing it in reverse."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
import structlog
from aiohttp.typedefs import Middleware

from authsvc.app.addresses import with_port
from authsvc.app.background import Background, background_jobs
from authsvc.app.build import handlers, open_deliverer, open_forwarding, open_parts
from authsvc.app.database_watch import DatabaseWatch
from authsvc.app.loop_lag import LoopLag
from authsvc.app.metrics import SERVER, SERVICE
from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import MetricTable
from authsvc.app.metrics.telemetry import TELEMETRY
from authsvc.app.planned_stops import PlannedStops
from authsvc.app.reload import Reload, Reloaded
from authsvc.app.server import Server
from authsvc.app.web import Web
from authsvc.config import Settings
from authsvc.core.lib.last_use import LastUse
from authsvc.core.limits.limiter import policies_from
from authsvc.errors import StoreUnavailable
from authsvc.metrics import Metrics
from authsvc.models.clock import Clock
from authsvc.tracing import Tracer

if TYPE_CHECKING:
    from authsvc.telemetry.exporter import Telemetry

log = structlog.get_logger("authsvc.service")

_CERTIFICATE_INTERVAL = 1.0
# How long a stop sends spans that are left: what the drain has left of its time, within these.
_TELEMETRY_PATIENCE = (1.0, 5.0)
# How long a stop waits for deliveries in progress.
_DELIVERY_PATIENCE = timedelta(seconds=5)


class Application:
    """The running service.

    `start` opens everything in order and `stop` closes it in reverse; a start that fails halfway
    closes what it opened.
    """

    server: Server
    web: Web

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock | None,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        middlewares: Sequence[Middleware],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._interceptors = interceptors
        self._middlewares = middlewares
        self._reload = Reload(settings)
        self._planned_stops = PlannedStops.of_environment()
        self._stack = AsyncExitStack()
        self._started = asyncio.Event()
        self._drained_by = 0.0

    @classmethod
    async def start(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        middlewares: Sequence[Middleware] = (),
    ) -> Self:
        """Start the service and return it once it serves calls.

        Its clock is `clock`, or else the database's. Calls pass through `interceptors` and HTTP
        requests through `middlewares` before anything else: `authsvc.testing` injects faults there.

        Raises:
            StoreUnavailable: The database can't be reached.
            SchemaError: The database has another schema version; the message says what to do.
            ServerError: A port is in use or a certificate can't be read.
            ConfigError: A template or another file named in `delivery` can't be used.
        """
        app = cls(
            settings=settings, clock=clock, interceptors=interceptors, middlewares=middlewares
        )
        try:
            await app._open()
        except BaseException:
            await app._stack.aclose()
            raise
        return app

    @property
    def grpc_port(self) -> int:
        """The port that gRPC listens on."""
        return self.server.port

    @property
    def http_port(self) -> int:
        """The port that HTTP listens on."""
        return self.web.port

    @property
    def grpc_address(self) -> str:
        """The address that gRPC listens on."""
        return with_port(self._settings.grpc.address, self.grpc_port)

    @property
    def http_address(self) -> str:
        """The address that HTTP listens on."""
        return with_port(self._settings.http.address, self.http_port)

    async def stop(self) -> None:
        """Drain: reject new calls, let those in progress finish, then close everything."""
        self.web.end()
        grace = self._settings.grpc.drain_timeout.total_seconds()
        self._drained_by = asyncio.get_running_loop().time() + grace
        await self.server.drain(grace)
        await self._stack.aclose()

    def reload(self, settings: Settings) -> Reloaded:
        """Apply the callers and limits of `settings`; certificates are reloaded independently.

        Returns which keys have changed since the last reload and since the start.
        """
        self._parts.use.policies.replace_settings(
            policies_from(settings.rate_limits.all_policies())
        )
        self._parts.brute_force.replace_settings(settings.brute_force)
        self._parts.code_limits.replace_settings(settings.codes, settings.brute_force)
        self._parts.block_list.replace_allowed(settings.blocks.allowed_networks())
        self._parts.violations.replace_settings(settings.blocks, settings.brute_force)
        self._parts.use.screening.replace_settings(settings.brute_force)
        self._parts.use.ip_blocking.replace_settings(settings.blocks)
        self.server.replace_callers(settings.callers)
        return self._reload.to(settings)

    async def is_current(self) -> bool:
        """Return whether the database answers and revocations are read in time."""
        try:
            await self._parts.database.ping()
        except StoreUnavailable:
            return False
        return self._parts.revocation_reader.is_fresh()

    def note_failed_reload(self) -> None:
        """Let the metrics say that the newest settings are invalid and therefore not in force."""
        self._reload.failed = True

    def note_planned_stop(self) -> None:
        """Count a stop on purpose, so that the next start is not taken for one after a crash."""
        self._planned_stops.note()

    async def _open(self) -> None:
        self._parts = parts = await self._stack.enter_async_context(
            open_parts(self._settings, self._clock)
        )
        await parts.use.key_usage.check()
        await parts.use.key_ages.note()
        await parts.token_validity.note()
        await parts.use.signing_keys.load()
        await parts.hasher.choose_library()
        metrics = Metrics()
        tracer = self._open_telemetry(metrics)
        if self._settings.delivery.channel == "none":
            log.warning("delivery_disabled")
        deliverer = open_deliverer(parts, self._settings, tracer)
        forwarding = open_forwarding(parts, self._settings)
        database_watch, loop_lag = DatabaseWatch(parts.database), LoopLag()
        self.web = Web(
            settings=self._settings,
            keys=parts.use.signing_keys,
            clock=parts.clock,
            metrics=metrics,
            middlewares=self._middlewares,
        )
        self.server = Server(
            settings=self._settings,
            handlers=handlers(parts.use),
            admit_address=parts.use.screening.admit,
            note_refusal=parts.use.screening.note_refusal,
            authenticate_bearer=partial(parts.use.token_validation.bearer, impersonated=True),
            clock=parts.clock,
            metrics=metrics,
            interceptors=self._interceptors,
            tracer=tracer,
        )
        running = Running(
            settings=self._settings,
            parts=parts,
            deliverer=deliverer,
            forwarding=forwarding,
            reload=self._reload,
            planned_stops=self._planned_stops,
            database_watch=database_watch,
            loop_lag=loop_lag,
            web=self.web,
        )
        metrics.registry.register(MetricTable(SERVER, self.server))
        metrics.registry.register(MetricTable(SERVICE, running))
        self._stack.push_async_callback(parts.violations.flush)
        self._stack.push_async_callback(_flush, parts.session_last_use)
        self._stack.push_async_callback(_flush, parts.api_key_last_use)
        if forwarding:
            self._stack.push_async_callback(forwarding.stop)
        background = Background(
            background_jobs(
                parts,
                deliverer,
                forwarding,
                partial(database_watch.run, self._on_look),
                self._watch_certificate,
                loop_lag.run,
            )
        )
        self._stack.push_async_callback(background.stop)
        self._stack.push_async_callback(deliverer.stop, _DELIVERY_PATIENCE)
        background.start()
        await self.web.start()
        self._stack.push_async_callback(self.web.stop)
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        self._started.set()
        self._set_serving(serving=True)

    def _open_telemetry(self, metrics: Metrics) -> Tracer | None:
        settings = self._settings.telemetry
        if settings.otlp_endpoint is None:
            return None
        from authsvc.telemetry.exporter import Telemetry  # noqa: PLC0415 - an extra, which few install

        telemetry = Telemetry(settings, metrics)
        metrics.registry.register(MetricTable(TELEMETRY, telemetry))
        telemetry.start()
        self._stack.push_async_callback(self._close_telemetry, telemetry)
        return telemetry.tracer

    async def _close_telemetry(self, telemetry: "Telemetry") -> None:
        least, most = _TELEMETRY_PATIENCE
        left = self._drained_by - asyncio.get_running_loop().time()
        await telemetry.close(max(least, min(left, most)))

    def _on_look(self, problem: str) -> None:
        # Until both ports listen, the service is not ready, whatever the database says.
        if self._started.is_set():
            self._set_serving(serving=not problem, why=problem)

    async def _watch_certificate(self) -> None:
        await self._started.wait()
        while True:
            await asyncio.sleep(_CERTIFICATE_INTERVAL)
            await self.server.reload_certificate()
            await self.web.reload_certificate()

    def _set_serving(self, *, serving: bool, why: str = "") -> None:
        self.server.set_serving(serving=serving)
        self.web.set_ready(ready=serving, why=why)


async def _flush(last_use: LastUse[Any]) -> None:
    try:
        await last_use.flush()
    except StoreUnavailable:
        log.warning("last_use_not_written")
