"""Owns the life of the running service: everything opened in order, and closed in reverse."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Self

import structlog

from authsvc.app.addresses import with_port
from authsvc.app.build import Core, handlers, open_core, open_deliverer
from authsvc.app.server import Server
from authsvc.app.web import Web
from authsvc.config import Settings
from authsvc.core.api_keys.validation import ApiKeyValidation
from authsvc.core.lib.clock import SystemClock
from authsvc.core.limits.limiter import policies_from
from authsvc.core.messages.delivery import Deliverer
from authsvc.core.retention.cleanup import Retention
from authsvc.core.sessions.sessions import Sessions
from authsvc.errors import StoreUnavailable
from authsvc.metrics import Metrics
from authsvc.models.clock import Clock
from authsvc.store.postgres.database import Database

log = structlog.get_logger("authsvc.service")

_PROBE_INTERVAL = 1.0
_RESTART_DELAY = 1.0
# How long a stop waits for messages that are being handed over.
_LAST_MESSAGES = timedelta(seconds=5)


class Application:
    """The running service.

    `start` opens everything in order and `stop` closes it in reverse; a start that fails half-way
    closes what it opened.
    """

    server: Server
    web: Web

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, settings: Settings, *, clock: Clock | None = None) -> Self:
        """Return the service, serving.

        Raises:
            StoreUnavailable: The database can't be reached.
            SchemaError: The database's schema is not this version's; the message says what to do.
            ServerError: A port is in use or a certificate can't be read.
            ConfigError: A template or something else that `delivery` names can't be used.
        """
        app = cls(settings, clock or SystemClock())
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
        """Where gRPC listens."""
        return with_port(self._settings.grpc.address, self.grpc_port)

    @property
    def http_address(self) -> str:
        """Where HTTP listens."""
        return with_port(self._settings.http.address, self.http_port)

    async def stop(self) -> None:
        """Drain: refuse new calls, let those in flight finish, then close everything."""
        self.web.end()
        await self.server.drain(self._settings.grpc.drain_timeout.total_seconds())
        await self._stack.aclose()

    def reload(self, settings: Settings) -> None:
        """Take over the callers and limits of `settings`; certificates reload by themselves."""
        self._core.base.limiter.replace_policies(policies_from(settings.rate_limits.all_policies()))
        self._core.base.brute_force.replace_settings(settings.brute_force)
        self._core.code_limits.replace_settings(settings.codes, settings.brute_force)
        self.server.replace_callers(settings.callers)

    async def _open(self) -> None:
        self._core = core = await self._stack.enter_async_context(
            open_core(self._settings, self._clock)
        )
        await core.base.keys.load()
        metrics = Metrics()
        _measure(core, metrics)
        deliverer = self._open_deliverer(core, metrics)
        self.web = Web(self._settings, core.base.keys, self._clock, metrics)
        self.server = Server(
            self._settings,
            handlers(core),
            core.base.validation.bearer,
            self._clock,
            metrics,
        )
        self._stack.push_async_callback(_flush, core.base.sessions)
        self._stack.push_async_callback(_flush, core.base.api_key_validation)
        self._stack.push_async_callback(self._cancel_background)
        self._stack.push_async_callback(deliverer.stop, _LAST_MESSAGES)
        others = {"unverified_accounts": core.unverified_accounts.remove}
        retention = Retention(core.base.database, self._settings.retention, self._clock, others)
        self._background("revocation-listener", core.base.listener.run)
        self._background("last-use", core.base.sessions.run)
        self._background("last-use-of-api-keys", core.base.api_key_validation.run)
        self._background("signing-keys", core.base.keys.run)
        self._background("retention", retention.run)
        self._background("delivery", deliverer.run)
        self._background("health", lambda: self._probe(core.base.database))
        await self.web.start()
        self._stack.push_async_callback(self.web.stop)
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        self._set_serving(serving=True)

    def _open_deliverer(self, core: Core, metrics: Metrics) -> Deliverer:
        channel = self._settings.delivery.channel
        if channel == "none":
            log.warning("delivery_disabled")
        outcomes = metrics.add_counter(
            "authsvc_messages", "Attempts to deliver.", ("channel", "outcome")
        )
        deliverer = open_deliverer(
            core,
            self._settings,
            self._clock,
            lambda outcome: outcomes.labels(channel, outcome).inc(),
        )
        metrics.add_gauge(
            "authsvc_outbox_pending", "Messages to deliver.", lambda: float(deliverer.pending)
        )
        metrics.add_gauge(
            "authsvc_outbox_abandoned",
            "Messages that were given up and are still kept.",
            lambda: float(deliverer.abandoned),
        )
        return deliverer

    def _background(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(_forever(name, work), name=name)
        self._tasks.add(task)

    async def _cancel_background(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _probe(self, database: Database) -> None:
        while True:
            try:
                await database.ping()
            except StoreUnavailable:
                self._set_serving(serving=False)
            else:
                self._set_serving(serving=True)
            await asyncio.sleep(_PROBE_INTERVAL)

    def _set_serving(self, *, serving: bool) -> None:
        self.server.set_serving(serving=serving)
        self.web.set_ready(ready=serving)


def _measure(core: Core, metrics: Metrics) -> None:
    hasher = core.base.hasher
    metrics.add_gauge("authsvc_hashes_queued", "Hashes waiting.", lambda: float(hasher.queued))
    metrics.add_gauge("authsvc_hashes_running", "Hashes under way.", lambda: float(hasher.running))
    metrics.add_gauge(
        "authsvc_revocation_listener_up",
        "1 while revocations are heard in time and caches are used, else 0.",
        lambda: float(core.base.listener.is_fresh()),
    )
    metrics.add_gauge(
        "authsvc_passkey_counter_alerts",
        "Answers refused since the start because the passkey's counter did not grow.",
        lambda: float(core.passkeys.counter_alerts),
    )


async def _flush(used: Sessions | ApiKeyValidation) -> None:
    try:
        await used.flush()
    except StoreUnavailable:
        log.warning("last_use_not_written")


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            # Background work outlives any fault: the next round may find things mended.
            log.exception("background_job_failed", work=name)
        await asyncio.sleep(_RESTART_DELAY)
