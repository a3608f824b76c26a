"""Each alert fires by its real fault on a real Prometheus, and ends; its runbook's commands work.

The rules are the committed ones with times divided by 360. Faults are had at the same time, each
by an installation of its own; one more, which nothing is done to, raises no alert.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path

import aiohttp.web
import asyncpg
import grpc
import pytest

from authsvc.dev import certificates
from authsvc.dev.ports import reserve
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.provider import DevProvider
from authsvc.models.incidents import DetectionName
from authsvc.store.postgres.migrator import migrate, shipped
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1.admin_service_pb2 import DisableUserRequest
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext, Tokens
from authsvc.v1.session_service_pb2 import RevokeUserSessionsRequest, ValidateSessionRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from deploy.observability.__main__ import alerts
from tests.support.accounts import PASSWORD
from tests.support.databases import freeze, resume, running_server
from tests.support.mail_server import mail_server
from tests.support.prometheus import Prometheus
from tests.support.proxy import Proxy
from tests.support.shell import sh
from tests.world.alerting import Stage
from tests.world.install import FAKETIME
from tests.world.installation import Installation, Replica

pytestmark = pytest.mark.world

_DIVISOR = 360
# What depends on how busy the machine of the tests is.
_SPEED = {
    "AuthsvcValidationLatencyBudgetBurn",
    "AuthsvcRevocationBudgetBurn",
    "AuthsvcEventLoopSlow",
    "AuthsvcHashQueueLong",
    "AuthsvcPoolExhausted",
}
_DETECTIONS = {f"Authsvc{name.value.title().replace('_', '')}" for name in DetectionName}
_NUMBERS = count(1)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the faults are made with: the stage, servers, and installations by name."""

    stage: Stage
    folder: Path
    server: EmbeddedPostgres
    other: EmbeddedPostgres

    @asynccontextmanager
    async def installation(
        self, name: str, settings: str = "", *, other: bool = False, **replaced: str
    ) -> AsyncIterator[Installation]:
        """Prepare an installation; what it has started ends with it."""
        installation = Installation(
            name,
            folder=self.folder,
            prometheus=self.stage.prometheus,
            server=self.other if other else self.server,
            settings=settings,
            replaced=replaced,
        )
        await installation.prepare()
        try:
            yield installation
        finally:
            await installation.stop()


@asynccontextmanager
async def going_on(work: Callable[[], Awaitable[object]], parallel: int = 1) -> AsyncIterator[None]:
    """Do something again and again, however it ends, in several tasks."""

    async def again() -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                await work()
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(again()) for _ in range(parallel)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def anybody() -> tuple[str, ClientContext]:
    """Return an address and a client that nobody had before."""
    number = next(_NUMBERS)
    return f"user{number}@example.test", ClientContext(ip=f"2001:db8:{number:x}::1")


async def registered(replica: Replica) -> str:
    """Register a user and return the address."""
    email, client = anybody()
    request = auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
    await AuthServiceStub(replica.channel("app")).Register(request)
    return email


async def logged_in(replica: Replica, email: str, client: ClientContext | None = None) -> Tokens:
    request = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client or anybody()[1])
    return (await AuthServiceStub(replica.channel("app")).Login(request)).tokens


def flood(replica: Replica) -> Callable[[], Awaitable[object]]:
    """Return a login of nobody from nowhere, which takes a hash."""

    def login() -> Awaitable[object]:
        email, client = anybody()
        request = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client)
        return AuthServiceStub(replica.channel("app")).Login(request)

    return login


async def database_freezes(scene: Scene) -> None:
    async with scene.installation("frozen", other=True) as installation:
        replica = await installation.start(
            AUTHSVC_DATABASE__COMMAND_TIMEOUT="1s", AUTHSVC_DATABASE__CONNECT_TIMEOUT="1s"
        )
        installation.load(replica)

        async def cause() -> None:
            freeze(scene.other)

        async def repair() -> None:
            resume(scene.other)

        await scene.stage.try_alerts(
            installation,
            "the database server is frozen (SIGSTOP)",
            ("AuthsvcDatabaseDown", "AuthsvcAvailabilityBudgetBurn"),
            cause=cause,
            repair=repair,
        )


async def tables_are_locked(scene: Scene) -> None:
    settings = """
[tokens]
"""
    async with scene.installation("locked") as installation:
        replica = await installation.start(
            AUTHSVC_DATABASE__POOL_MAX="2",
            AUTHSVC_TOKENS__KEY_ROTATION_INTERVAL="8s",
            AUTHSVC_TOKENS__KEY_PUBLISH_LEAD="2s",
        )
        assert settings
        sessions = SessionServiceStub(replica.channel("edge"))
        holder = await asyncpg.connect(installation.dsn)
        tokens = count()

        def validate() -> Awaitable[object]:
            token = f"{next(tokens):043}"
            return sessions.ValidateSession(ValidateSessionRequest(session_token=token))

        async with AsyncExitStack() as stack:

            async def cause() -> None:
                await holder.execute("BEGIN")
                await holder.execute(
                    "LOCK TABLE revocations, definition_versions, ip_blocks, detection_runs,"
                    " signing_keys, sessions"
                )
                await stack.enter_async_context(going_on(validate, 24))

            async def repair() -> None:
                await holder.close()
                await stack.aclose()

            await scene.stage.try_alerts(
                installation,
                "somebody holds a lock of the table",
                (
                    "AuthsvcRevocationListenerBehind",
                    "AuthsvcDefinitionsStale",
                    "AuthsvcDetectionsStopped",
                    "AuthsvcSigningKeyOld",
                    "AuthsvcPoolExhausted",
                ),
                cause=cause,
                repair=repair,
            )


async def listener_is_killed(scene: Scene) -> None:
    async with scene.installation("deaf") as installation:
        superuser = await asyncpg.connect(scene.server.dsn(user="postgres"))
        await superuser.execute("CREATE ROLE bell LOGIN PASSWORD 'bell'")
        _, _, rest = installation.dsn.partition("@")
        replica = await installation.start(
            AUTHSVC_DATABASE__LISTENER_URL=f"postgresql://bell:bell@{rest}"
        )
        installation.load(replica)

        async def cause() -> None:
            await superuser.execute("ALTER ROLE bell NOLOGIN")
            await superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bell'"
            )

        async def repair() -> None:
            await superuser.execute("ALTER ROLE bell LOGIN")

        try:
            await scene.stage.try_alerts(
                installation,
                "the listener's session is ended, and its role may not connect",
                ("AuthsvcDoorbellDown",),
                cause=cause,
                repair=repair,
            )
        finally:
            await superuser.close()


async def logins_flood(scene: Scene) -> None:
    async with scene.installation("hashing") as installation, AsyncExitStack() as stack:
        replica = await installation.start(AUTHSVC_PASSWORDS__HASH_WORKERS="1")

        async def cause() -> None:
            await stack.enter_async_context(going_on(flood(replica), 100))

        await scene.stage.try_alerts(
            installation,
            "100 clients log in without pause",
            ("AuthsvcHashQueueLong", "AuthsvcOverloaded"),
            cause=cause,
            repair=stack.aclose,
        )


async def network_is_slow(scene: Scene) -> None:
    async with scene.installation("slow") as installation, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(installation.dsn))
        replica = await installation.start(AUTHSVC_DATABASE__URL=proxy.dsn)
        sessions = SessionServiceStub(replica.channel("edge"))
        tokens = count()

        def validate() -> Awaitable[object]:
            request = ValidateSessionRequest(session_token=f"{next(tokens):043}", strict=True)
            return sessions.ValidateSession(request)

        await stack.enter_async_context(going_on(validate, 4))

        async def cause() -> None:
            proxy.delay = 0.02

        async def repair() -> None:
            proxy.delay = 0.0

        await scene.stage.try_alerts(
            installation,
            "the network to the database takes 40 ms longer",
            ("AuthsvcValidationLatencyBudgetBurn",),
            cause=cause,
            repair=repair,
        )


async def replica_is_cut_off(scene: Scene) -> None:
    async with scene.installation("late") as installation, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(installation.dsn))
        direct = await installation.start()
        late = await installation.start(AUTHSVC_DATABASE__URL=proxy.dsn)
        email = await registered(direct)
        sessions = SessionServiceStub(direct.channel("app"))
        age = f'authsvc_revocation_read_age_seconds{{instance="{late.http}"}}'

        async def cut() -> None:
            """Let it miss some revocations for more than a second."""
            proxy.hold()
            for _ in range(3):
                tokens = await logged_in(direct, email)
                await sessions.RevokeUserSessions(
                    RevokeUserSessionsRequest(user_id=tokens.user_id)
                )
            async with asyncio.timeout(60):
                while not await scene.stage.prometheus.query(f"{age} > 1.5"):
                    await asyncio.sleep(0.1)
            proxy.release()
            async with asyncio.timeout(60):
                while not await scene.stage.prometheus.query(f"{age} < 1"):
                    await asyncio.sleep(0.1)

        async def cause() -> None:
            await stack.enter_async_context(going_on(cut))

        async def repair() -> None:
            await stack.aclose()

        await scene.stage.try_alerts(
            installation,
            "a replica is cut off from the database for seconds, again and again",
            ("AuthsvcRevocationBudgetBurn",),
            cause=cause,
            repair=repair,
        )


async def processor_is_taken_away(scene: Scene) -> None:
    async with scene.installation("starved") as installation, AsyncExitStack() as stack:
        replica = await installation.start()

        async def pause() -> None:
            replica.process.send(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            replica.process.send(signal.SIGCONT)
            await asyncio.sleep(0.2)

        async def cause() -> None:
            await stack.enter_async_context(going_on(pause))

        async def repair() -> None:
            await stack.aclose()
            replica.process.send(signal.SIGCONT)

        await scene.stage.try_alerts(
            installation,
            "the process is stopped for most of each half second",
            ("AuthsvcEventLoopSlow",),
            cause=cause,
            repair=repair,
        )


async def outside_refuses(scene: Scene) -> None:
    held, address = reserve()
    port = address.rpartition(":")[2]
    listener, provider_address = reserve()
    provider_port = int(provider_address.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(mail_server())
        settings = f"""
[delivery.smtp]
host = "localhost"
port = {mail.port}
tls = "off"
sender = "login@shop.test"

[audit.forward]
target = "webhook"
longest_retry = "1s"

[audit.forward.webhook]
url = "http://127.0.0.1:{port}/"
secrets = ["whsec_{"QUJD" * 8}"]
"""
        installation = await stack.enter_async_context(
            scene.installation(
                "mail",
                settings,
                **{
                    'channel = "folder"': 'channel = "smtp"\nfirst_retry = "1s"\n'
                    'longest_retry = "1s"',
                    '"http://127.0.0.1:8090"': f'"http://{provider_address}"',
                },
            )
        )
        replica = await installation.start()
        auth = AuthServiceStub(replica.channel("app"))

        async def request_codes() -> None:
            for _ in range(8):
                email, client = anybody()
                await auth.Register(
                    auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
                )

        def begin_oauth() -> Awaitable[object]:
            return auth.BeginOAuth(
                auth_pb.BeginOAuthRequest(
                    provider="local",
                    redirect_uri="http://localhost:8080/callback",
                    client=anybody()[1],
                )
            )

        async def start_receiver() -> None:
            app = aiohttp.web.Application()
            app.router.add_post("/", _accepted)
            held.close()
            await _serve(stack, app, int(port))

        async def start_provider() -> None:
            listener.close()
            secret = installation.workspace.provider_secret.read_text()
            provider = DevProvider(f"http://{provider_address}", secret)
            await _serve(stack, provider.app(), provider_port)

        async def begin() -> None:
            await stack.enter_async_context(going_on(begin_oauth))

        async def refuse_for_now() -> None:
            mail.rcpt = "451 come again"
            await request_codes()

        async def refuse() -> None:
            mail.rcpt = "550 no"

        async def accept() -> None:
            mail.rcpt = "250 OK"

        async def freeze_logins() -> None:
            await sh(
                "authsvc incident freeze --method passkey --for 2h --reason test --yes",
                scene.folder,
                cwd=installation.folder,
            )

        async def nothing() -> None:
            pass

        async def messages() -> None:
            await scene.stage.try_alerts(
                installation,
                "the mail server says 451 to every recipient",
                ("AuthsvcMessagesDelayed",),
                cause=refuse_for_now,
                repair=refuse,
            )
            await scene.stage.try_alerts(
                installation,
                "the mail server says 550 to every recipient",
                ("AuthsvcMessagesAbandoned",),
                cause=request_codes,
                repair=accept,
            )

        async with asyncio.TaskGroup() as group:
            group.create_task(messages())
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "nobody listens where audit events are sent",
                    ("AuthsvcAuditForwardingBehind",),
                    cause=nothing,
                    repair=start_receiver,
                )
            )
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "the identity provider is down",
                    ("AuthsvcProviderUnavailable",),
                    cause=begin,
                    repair=start_provider,
                )
            )
            group.create_task(
                scene.stage.try_alerts(
                    installation,
                    "a freeze is forgotten",
                    ("AuthsvcLoginsFrozen",),
                    cause=freeze_logins,
                )
            )


async def _accepted(_request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response()


async def _serve(stack: AsyncExitStack, app: aiohttp.web.Application, port: int) -> None:
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
