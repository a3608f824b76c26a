"""Owns the real service of a test process: its start, its end, and what tests ask of it."""

import asyncio
import secrets
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias, TypeVar
from weakref import WeakSet

import structlog

from authsvc.app.application import Application
from authsvc.client import AsyncClient, AsyncVerifier, Client, Freshness, Verifier
from authsvc.config.loading import validate
from authsvc.config.sources import merge, read_file, read_folder
from authsvc.dev import ports
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres import migrator
from authsvc.testing import clock as clocks
from authsvc.testing.clock import ShiftedClock, TestClock
from authsvc.testing.database import ScratchDatabase
from authsvc.testing.faults import FaultGate, Faults
from authsvc.testing.users import Message, User, wait_for_messages
from authsvc.v1.admin_service_pb2 import CreateUserRequest
from authsvc.v1.auth_service_pb2 import LoginRequest
from authsvc.v1.common_pb2 import ClientContext, Tokens
from authsvc.v1.session_service_pb2 import CreateSessionRequest

Role: TypeAlias = Literal["app", "edge", "issuer", "admin", "observer"]
_Result = TypeVar("_Result")

_PATIENCE = 60.0
_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a client's certificate and key, in PEM."""

    cert: Path
    key: Path


class TestService:
    """The whole service with its own PostgreSQL, on an event loop and a thread of its own.

    All methods are synchronous and may be called from any thread, also while an event loop runs.
    """

    __test__ = False  # pytest would take it for a class of tests

    clock: TestClock
    faults: Faults

    def __init__(self, settings: Mapping[str, Any], database: ScratchDatabase | None) -> None:
        self._overrides = settings
        self._database = database
        self._stack = ExitStack()
        self._own: dict[Role, Client] = {}
        self._clients: WeakSet[Client] = WeakSet()

    @classmethod
    def start(
        cls,
        settings: Mapping[str, Any] = _NO_SETTINGS,
        *,
        database: ScratchDatabase | None = None,
    ) -> Self:
        """Start a service and return it once it serves; `stop` ends it.

        `settings` are tables and keys as in its settings file. `database` is one that starts
        already; otherwise, the service has one of its own.

        Raises:
            ConfigError: A setting is unknown or invalid; the message says which.
            EmbeddedPostgresError: PostgreSQL can't be started; the message says why.
        """
        service = cls(settings, database)
        try:
            service._open()
        except BaseException:
            service._stack.close()
            raise
        return service

    def stop(self) -> None:
        """Stop the service and its database, and remove their files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """The address of gRPC, as HOST:PORT."""
        return self._app.grpc_address

    @property
    def http_url(self) -> str:
        """The URL of HTTP, which is also the issuer of tokens."""
        return f"http://{self._app.http_address}"

    @property
    def ca(self) -> Path:
        """The file with the certificate that all others are signed with."""
        return self._workspace.certificates / "ca.crt"

    def certificate(self, role: Role = "app") -> Certificate:
        """Return the files of the client with this role."""
        name = self._workspace.certificates / "clients" / role
        return Certificate(name.with_suffix(".crt"), name.with_suffix(".key"))

    def client(self, role: Role = "app") -> Client:
        """Return a new client with this role: a context manager that closes it.

        The end of the service closes those that are left open.
        """
        files = self.certificate(role)
        client = Client(self.target, ca=self.ca, cert=files.cert, key=files.key)
        self._clients.add(client)
        return client

    def async_client(self, role: Role = "app") -> AsyncClient:
        """Return a new client with this role for the running event loop, which has to close it."""
        files = self.certificate(role)
        return AsyncClient(self.target, ca=self.ca, cert=files.cert, key=files.key)

    @contextmanager
    def verifier(
        self,
        role: Role = "edge",
        *,
        audience: str = "",
        max_staleness: float = 1.0,
        on_degraded: Callable[[Freshness], None] | None = None,
    ) -> Iterator[Verifier]:
        """Yield a started verifier that goes by the service's clock.

        Its audience is that of the tokens of users, unless another is given.
        """
        with (
            self.client(role) as client,
            Verifier(
                client,
                issuer=self._settings.tokens.issuer,
                audience=audience or self._settings.tokens.audience,
                max_staleness=max_staleness,
                on_degraded=on_degraded,
                clock=self._unix_time,
            ) as verifier,
        ):
            yield verifier

    @asynccontextmanager
    async def async_verifier(
        self,
        role: Role = "edge",
        *,
        audience: str = "",
        max_staleness: float = 1.0,
        on_degraded: Callable[[Freshness], None] | None = None,
    ) -> AsyncIterator[AsyncVerifier]:
        """Yield a verifier, as `verifier` does, for the running event loop."""
        async with (
            self.async_client(role) as client,
            AsyncVerifier(
                client,
                issuer=self._settings.tokens.issuer,
                audience=audience or self._settings.tokens.audience,
                max_staleness=max_staleness,
                on_degraded=on_degraded,
                clock=self._unix_time,
            ) as verifier,
        ):
            yield verifier

    def user(
        self, email: str = "", *, password: str = "", roles: Sequence[str] = ("user",)
    ) -> User:
        """Create a user with a verified address, which is a new one unless `email` is given.

        Raises AuthsvcError, for example EmailTaken, or FieldInvalid for a role that isn't defined.
        """
        email = email or f"{uuid.uuid4().hex[:12]}@example.test"
        password = password or f"Aa1!{secrets.token_urlsafe(16)}"
        request = CreateUserRequest(
            email=email, password=password, roles=roles, email_verified=True
        )
        created = self._own_client("admin").admin.CreateUser(request).user
        return User(created.user_id, email, password, tuple(created.roles))

    def tokens(self, user: User, **client: str) -> Tokens:
        """Log the user in with the password, from a client such as `ip="203.0.113.7"`.

        Raises:
            AuthsvcError: The login failed.
            ValueError: The user has a second factor: log in with it, or use `session`.
        """
        request = LoginRequest(
            email=user.email, password=user.password, client=ClientContext(**client)
        )
        response = self._own_client("app").auth.Login(request)
        if not response.HasField("tokens"):
            raise ValueError(f"{user.email} has a second factor: log in with it, or use session()")
        return response.tokens

    def session(self, user: User, *, methods: Sequence[str] = ("pwd",), **client: str) -> Tokens:
        """Open a session without a login, as a service does that authenticated the user itself."""
        request = CreateSessionRequest(
            user_id=user.user_id,
            authentication_methods=methods,
            client=ClientContext(**client),
        )
        return self._own_client("issuer").sessions.CreateSession(request).tokens

    def messages(self, email: str, *, count: int = 1, timeout: float = 5.0) -> list[Message]:
        """Return what was sent to an address, oldest first, once that is at least `count`.

        Raises TimeoutError if it isn't within `timeout` seconds.
        """
        return wait_for_messages(self._workspace.folder / "messages", email, count, timeout)

    def reset(self) -> None:
        """End all faults and return to the real time; the fixture does this after each test."""
        self.faults.reset()
        self.clock.reset()

    def _unix_time(self) -> float:
        return self.clock.now().timestamp()

    def _own_client(self, role: Role) -> Client:
        if role not in self._own:
            self._own[role] = self.client(role)
        return self._own[role]

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def _open(self) -> None:
        _log_by_standard_library(self._stack)
        database = self._database or self._stack.enter_context(ScratchDatabase())
        self._workspace = workspace = Workspace(database.folder)
        workspace.prepare()
        postgres = database.wait()
        with ExitStack() as reserved:
            addresses: dict[str, str | None] = {}
            for name in ("grpc", "http"):
                holder, addresses[name] = ports.reserve()
                reserved.enter_context(holder)
            workspace.set_addresses(addresses)
            workspace.set_database(postgres.dsn())
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._serve, name="authsvc-testing", daemon=True)
            thread.start()
            self._stack.callback(thread.join)
            self._stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._run(self._start(postgres))
        self._stack.callback(lambda: self._run(self._app.stop()))
        self._stack.callback(self._close_clients)

    async def _start(self, postgres: EmbeddedPostgres) -> None:
        dsn = postgres.dsn()
        await migrator.migrate(dsn)
        await clocks.install(dsn)
        # Without the environment, which may hold settings of the service under test.
        values = read_file(self._workspace.config).values
        for more in (read_folder(self._workspace.secrets).values, self._overrides):
            values = merge(values, more)
        self._settings = settings = validate(values)
        shifted, gate = ShiftedClock(), FaultGate()
        self._app = app = await Application.start(
            settings, clock=shifted, interceptors=[gate], middlewares=[gate.respond]
        )

        async def apply() -> None:
            # Drops rejections by limits that are in memory for up to a second of real time.
            app.reload(settings)

        self.clock = TestClock(clock=shifted, dsn=dsn, run=self._run, on_move=apply)
        self.faults = Faults(
            gate=gate, postgres=postgres, run=self._run, has_recovered=app.is_current
        )

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


def _log_by_standard_library(stack: ExitStack) -> None:
    """Send the service's log to `logging`, unless the process has its own settings of structlog."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    stack.callback(structlog.reset_defaults)
