"""Owns the composition: settings in, a running service out. The only place where parts meet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

import structlog

from authsvc.config import Settings
from authsvc.core.access_tokens import AccessTokens
from authsvc.core.accounts import Accounts
from authsvc.core.brute_force import BruteForce
from authsvc.core.clock import SystemClock
from authsvc.core.hashing import PasswordHasher
from authsvc.core.passwords import PasswordPolicy
from authsvc.core.rate_limits import RateLimiter, policies_from
from authsvc.core.refresh_tokens import RefreshTokenCodec
from authsvc.core.retention import Retention
from authsvc.core.revocations import Revocation, RevocationListener
from authsvc.core.sealing import Keyring
from authsvc.core.sessions import Sessions
from authsvc.core.signing_keys import SigningKeys
from authsvc.core.tokens import TokenValidation
from authsvc.errors import StoreUnavailable
from authsvc.metrics import Metrics
from authsvc.models import Clock
from authsvc.rpc.account_service import AccountHandler
from authsvc.rpc.auth_service import AuthHandler
from authsvc.rpc.rate_limit_service import RateLimitHandler
from authsvc.rpc.session_service import SessionHandler
from authsvc.server import Server
from authsvc.store.database import Database
from authsvc.store.migrator import check_schema
from authsvc.web import Web

log = structlog.get_logger("authsvc.app")

_PROBE_INTERVAL = 1.0
_RESTART_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class Core:
    """The use cases on an open database, without any port: what commands work with."""

    database: Database
    keys: SigningKeys
    sessions: Sessions
    limiter: RateLimiter
    accounts: Accounts
    validation: TokenValidation
    listener: RevocationListener
    hasher: PasswordHasher
    guard: BruteForce


@asynccontextmanager
async def open_core(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Core]:
    """Open the database and build the use cases on it; close it all in the end.

    Raises:
        StoreUnavailable: The database can't be reached.
        SchemaError: The database's schema is not this version's; the message says what to do.
    """
    clock = clock or SystemClock()
    database = await Database.open(settings.database)
    hasher = PasswordHasher(settings.passwords, settings.secrets.peppers)
    try:
        async with database.connection() as connection:
            await check_schema(connection)
        yield _compose(settings, clock, database, hasher)
    finally:
        hasher.close()
        await database.close()


def _compose(settings: Settings, clock: Clock, database: Database, hasher: PasswordHasher) -> Core:
    keyring = Keyring(settings.secrets.keyring)

    # Caches are told of revocations, and ask whether these are heard: a circle, closed here.
    def on_event(event: Revocation) -> None:
        sessions.on_revocation(event)
        keys.on_revocation(event)

    def on_gap() -> None:
        sessions.on_gap()
        keys.on_gap()

    listener = RevocationListener(
        settings.database, settings.sessions.cache_staleness, on_event, on_gap
    )
    keys = SigningKeys(database, keyring, settings.tokens, clock, listener.is_fresh)
    access_tokens = AccessTokens(keys, settings.tokens, settings.permissions, clock)
    sessions = Sessions(
        database,
        access_tokens,
        RefreshTokenCodec(keyring.derive("refresh-token")),
        settings.sessions,
        settings.tokens,
        clock,
        listener.is_fresh,
    )
    policies = policies_from(settings.rate_limits.all_policies())
    guard = BruteForce(database, settings.brute_force, keyring)
    accounts = Accounts(
        database,
        hasher,
        PasswordPolicy(settings.passwords.preset),
        sessions,
        guard,
        clock,
    )
    return Core(
        database=database,
        keys=keys,
        sessions=sessions,
        limiter=RateLimiter(database, policies, settings.rate_limits.rejected_cache_size),
        accounts=accounts,
        validation=TokenValidation(access_tokens, sessions),
        listener=listener,
        hasher=hasher,
        guard=guard,
    )


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

    async def stop(self) -> None:
        """Drain: refuse new calls, let those in flight finish, then close everything."""
        self.web.end()
        await self.server.drain(self._settings.grpc.drain_timeout.total_seconds())
        await self._stack.aclose()

    def reload(self, settings: Settings) -> None:
        """Take over the callers and limits of `settings`; certificates reload by themselves."""
        self._core.limiter.replace_policies(policies_from(settings.rate_limits.all_policies()))
        self._core.guard.replace_settings(settings.brute_force)
        self.server.replace_callers(settings.callers)

    async def _open(self) -> None:
        self._core = core = await self._stack.enter_async_context(
            open_core(self._settings, self._clock)
        )
        await core.keys.load()
        metrics = Metrics()
        _measure(core, metrics)
        self.web = Web(self._settings, core.keys, self._clock, metrics)
        self.server = Server(
            self._settings,
            [
                AuthHandler(core.accounts, core.sessions, core.validation, core.keys),
                AccountHandler(core.accounts),
                SessionHandler(core.sessions),
                RateLimitHandler(core.limiter),
            ],
            core.validation.bearer,
            self._clock,
            metrics,
        )
        self._stack.push_async_callback(_flush, core.sessions)
        self._stack.push_async_callback(self._cancel_background)
        retention = Retention(core.database, self._settings.retention, self._clock)
        self._background("revocation-listener", core.listener.run)
        self._background("last-use", core.sessions.run)
        self._background("signing-keys", core.keys.run)
        self._background("retention", retention.run)
        self._background("health", lambda: self._probe(core.database))
        await self.web.start()
        self._stack.push_async_callback(self.web.stop)
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        self._set_serving(serving=True)

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
    hasher = core.hasher
    metrics.add_gauge("authsvc_hashes_queued", "Hashes waiting.", lambda: float(hasher.queued))
    metrics.add_gauge("authsvc_hashes_running", "Hashes under way.", lambda: float(hasher.running))
    metrics.add_gauge(
        "authsvc_revocations_heard",
        "1 while revocations are heard in time and caches are used, else 0.",
        lambda: float(core.listener.is_fresh()),
    )


async def _flush(sessions: Sessions) -> None:
    try:
        await sessions.flush()
    except StoreUnavailable:
        log.warning("last uses not noted")


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            # Background work outlives any fault: the next round may find things mended.
            log.exception("background work failed", work=name)
        await asyncio.sleep(_RESTART_DELAY)
