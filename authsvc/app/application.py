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
from authsvc.app.build import Parts, handlers, open_deliverer, open_forwarding, open_parts
from authsvc.app.reload import Reload, Reloaded
from authsvc.app.server import Server
from authsvc.app.web import Web
from authsvc.config import Settings
from authsvc.core.audit.forwarding import AuditForwarding
from authsvc.core.lib.clock import DatabaseClock
from authsvc.core.lib.last_use import LastUse
from authsvc.core.limits.limiter import policies_from
from authsvc.core.messages.delivery import Deliverer
from authsvc.errors import StoreUnavailable
from authsvc.metrics import Metrics
from authsvc.models.clock import Clock
from authsvc.models.incidents import DetectionName, LoginMethod
from authsvc.store.postgres.failures import describe
from authsvc.tracing import Tracer

if TYPE_CHECKING:
    from authsvc.telemetry.exporter import Telemetry

log = structlog.get_logger("authsvc.service")

_PROBE_INTERVAL = 1.0
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

    async def _open(self) -> None:
        self._parts = parts = await self._stack.enter_async_context(
            open_parts(self._settings, self._clock)
        )
        await parts.use.key_usage.check()
        await parts.use.signing_keys.load()
        await parts.hasher.choose_library()
        metrics = Metrics()
        _measure(parts, metrics)
        _measure_reload(self._reload, metrics)
        _measure_incidents(parts, metrics)
        tracer = self._open_telemetry(metrics)
        deliverer = self._open_deliverer(parts, metrics, tracer)
        forwarding = self._open_forwarding(parts, metrics)
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
        self._stack.push_async_callback(parts.violations.flush)
        self._stack.push_async_callback(_flush, parts.session_last_use)
        self._stack.push_async_callback(_flush, parts.api_key_last_use)
        if forwarding:
            self._stack.push_async_callback(forwarding.stop)
        background = Background(
            background_jobs(
                parts, deliverer, forwarding, self._watch_health, self._watch_certificate
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
        telemetry.start()
        self._stack.push_async_callback(self._close_telemetry, telemetry)
        return telemetry.tracer

    async def _close_telemetry(self, telemetry: "Telemetry") -> None:
        least, most = _TELEMETRY_PATIENCE
        left = self._drained_by - asyncio.get_running_loop().time()
        await telemetry.close(max(least, min(left, most)))

    def _open_deliverer(self, parts: Parts, metrics: Metrics, tracer: Tracer | None) -> Deliverer:
        channel = self._settings.delivery.channel
        if channel == "none":
            log.warning("delivery_disabled")
        outcomes = metrics.add_counter(
            "authsvc_messages",
            "Delivery attempts by channel and outcome.",
            ("channel", "outcome"),
        )
        deliverer = open_deliverer(
            parts,
            self._settings,
            parts.clock,
            lambda outcome: outcomes.labels(channel, outcome).inc(),
            tracer,
        )
        metrics.add_gauge(
            "authsvc_outbox_pending",
            "Messages waiting for delivery.",
            lambda: float(deliverer.pending),
        )
        metrics.add_gauge(
            "authsvc_outbox_abandoned",
            "Abandoned messages that are still stored.",
            lambda: float(deliverer.abandoned),
        )
        return deliverer

    def _open_forwarding(self, parts: Parts, metrics: Metrics) -> AuditForwarding | None:
        batches = metrics.add_counter(
            "authsvc_audit_events_forwarded",
            "Audit events sent to audit.forward, by outcome; each failure is sent again.",
            ("outcome",),
        )
        forwarding = open_forwarding(
            parts, self._settings, lambda outcome, count: batches.labels(outcome).inc(count)
        )
        if forwarding:
            metrics.add_gauge(
                "authsvc_audit_forward_lag_seconds",
                "Time since the moment until which all audit events have been forwarded.",
                forwarding.lag,
            )
        return forwarding

    async def _watch_health(self) -> None:
        # Until both ports listen, the service is not ready, whatever the database says.
        await self._started.wait()
        while True:
            try:
                await self._parts.database.ping()
            except StoreUnavailable as error:
                self._set_serving(serving=False, why=f"database: {describe(error, host=False)}")
            else:
                self._set_serving(serving=True)
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _watch_certificate(self) -> None:
        await self._started.wait()
        while True:
            await asyncio.sleep(_CERTIFICATE_INTERVAL)
            await self.server.reload_certificate()
            await self.web.reload_certificate()

    def _set_serving(self, *, serving: bool, why: str = "") -> None:
        self.server.set_serving(serving=serving)
        self.web.set_ready(ready=serving, why=why)


def _measure(parts: Parts, metrics: Metrics) -> None:
    hasher = parts.hasher
    metrics.add_gauge(
        "authsvc_hashes_queued", "Password hashes waiting.", lambda: float(hasher.queued)
    )
    metrics.add_gauge(
        "authsvc_hashes_running", "Password hashes in progress.", lambda: float(hasher.running)
    )
    metrics.add_gauge(
        "authsvc_revocation_listener_up",
        "1 while revocations are read in time and caches are used, otherwise 0.",
        lambda: float(parts.revocation_reader.is_fresh()),
    )
    metrics.add_gauge(
        "authsvc_revocation_read_age_seconds",
        "Time since the last successful read of the revocation log began.",
        parts.revocation_reader.age,
    )
    metrics.add_gauge(
        "authsvc_revocation_watchers",
        "Streams of WatchRevocations that are open.",
        lambda: float(parts.use.revocation_watch.watchers),
    )
    metrics.add_gauge(
        "authsvc_doorbell_up",
        "1 while notifications of other replicas are received, otherwise 0: then only polling.",
        lambda: float(parts.doorbell.is_listening),
    )
    metrics.add_gauge(
        "authsvc_ip_blocks",
        "Blocks of addresses in this replica's memory, some of which may have ended.",
        lambda: float(len(parts.block_list)),
    )
    metrics.add_gauge(
        "authsvc_ip_blocks_fresh",
        "1 while blocks are read in time and asked for in memory, otherwise 0.",
        lambda: float(parts.block_list.is_fresh()),
    )
    metrics.add_gauge(
        "authsvc_ip_violations",
        "Refusals by address that this replica has counted since the start.",
        lambda: float(parts.violations.noted),
    )
    metrics.add_gauge(
        "authsvc_ip_blocks_made",
        "Blocks that this replica has made since the start, because of violations.",
        lambda: float(parts.violations.blocked),
    )
    metrics.add_gauge(
        "authsvc_requests_blocked",
        "Requests since the start that were refused because their address is blocked.",
        lambda: float(parts.use.screening.blocked),
    )
    metrics.add_gauge(
        "authsvc_screened_requests_limited",
        "Screened requests since the start that exceeded their policy.",
        lambda: float(parts.use.screening.limited),
    )
    metrics.add_gauge(
        "authsvc_definitions_read_age_seconds",
        "Time since the last successful look for changed policies and roles began.",
        parts.definitions.age,
    )
    shadows = metrics.add_counter(
        "authsvc_rate_limit_shadow_rejections",
        "Charges that a shadow policy would have rejected.",
        ("policy",),
    )
    parts.use.rate_limiter.on_shadow_rejection(lambda policy: shadows.labels(policy).inc())
    if isinstance(parts.clock, DatabaseClock):
        metrics.add_gauge(
            "authsvc_clock_skew_seconds",
            "How far this machine's clock is ahead of the database's, which the service goes by.",
            parts.clock.skew,
        )
    metrics.add_gauge(
        "authsvc_callers_without_client_ip",
        "Callers that have sent attempts to log in without client.ip since the start.",
        lambda: float(len(parts.attempts.callers_without_ip)),
    )
    metrics.add_gauge(
        "authsvc_passkey_counter_alerts",
        "Assertions since the start whose passkey's counter did not increase.",
        lambda: float(parts.passkeys.counter_alerts),
    )
    if (breached := parts.breached_passwords) is not None:
        metrics.add_gauge(
            "authsvc_breached_password_requests",
            "Requests to the service of breached passwords since the start.",
            lambda: float(breached.requests),
        )
        metrics.add_gauge(
            "authsvc_breached_password_failures",
            "Requests of these that had no valid answer in time.",
            lambda: float(breached.failures),
        )
        metrics.add_gauge(
            "authsvc_breached_passwords_refused",
            "New passwords refused since the start because they were breached.",
            lambda: float(breached.refusals),
        )


def _measure_incidents(parts: Parts, metrics: Metrics) -> None:
    detections = metrics.add_counter(
        "authsvc_detections", "Detections that this replica raised.", ("detection",)
    )
    for name in DetectionName:
        # From the start, so that the first one is an increase.
        detections.labels(name.value)
    parts.use.detections.on_raise(lambda name: detections.labels(name.value).inc())
    metrics.add_gauge(
        "authsvc_detections_age_seconds",
        "Time since some replica last looked for incidents.",
        parts.use.detections.age,
    )
    freezes = parts.use.login_freezes
    refusals = metrics.add_counter(
        "authsvc_logins_frozen", "Logins refused because they were frozen.", ("method",)
    )
    for method in LoginMethod:
        refusals.labels(method.value)
    freezes.on_refusal(lambda method: refusals.labels(method.value).inc())
    metrics.add_gauge(
        "authsvc_login_freezes", "Freezes of logins in force.", lambda: float(freezes.in_force)
    )


def _measure_reload(reload: Reload, metrics: Metrics) -> None:
    metrics.add_gauge(
        "authsvc_settings_restart_needed",
        "1 while changed settings take effect only after a restart, otherwise 0.",
        lambda: float(reload.is_restart_needed),
    )
    metrics.add_gauge(
        "authsvc_settings_reload_failed",
        "1 while changed settings are invalid and earlier ones are in force, otherwise 0.",
        lambda: float(reload.failed),
    )


async def _flush(last_use: LastUse[Any]) -> None:
    try:
        await last_use.flush()
    except StoreUnavailable:
        log.warning("last_use_not_written")
