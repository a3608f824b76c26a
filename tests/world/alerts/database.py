"""Faults of the database, and of what leads to it."""

from collections.abc import Awaitable
from contextlib import AsyncExitStack

import asyncpg

from authsvc.v1.session_service_pb2 import RevokeUserSessionsRequest, ValidateSessionRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.databases import freeze, resume
from tests.support.proxy import Proxy
from tests.world.alerts.scene import Scene, going_on, logged_in, registered


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
    async with scene.installation("locked") as installation:
        replica = await installation.start(
            AUTHSVC_DATABASE__POOL_MAX="2",
            AUTHSVC_TOKENS__KEY_ROTATION_INTERVAL="8s",
            AUTHSVC_TOKENS__KEY_PUBLISH_LEAD="2s",
        )
        sessions = SessionServiceStub(replica.channel("edge"))
        token = (await logged_in(replica, await registered(replica))).session_token

        def validate() -> Awaitable[object]:
            request = ValidateSessionRequest(session_token=token, strict=True)
            return sessions.ValidateSession(request)

        async with AsyncExitStack() as stack:
            holder = await asyncpg.connect(installation.dsn)
            stack.push_async_callback(holder.close)

            async def cause() -> None:
                await holder.execute("BEGIN")
                await holder.execute(
                    "LOCK TABLE revocations, definition_versions, ip_blocks, detection_runs,"
                    " signing_keys, sessions, outbox"
                )
                await stack.enter_async_context(going_on(validate, 24))

            await scene.stage.try_alerts(
                installation,
                "somebody holds a lock of the table",
                (
                    "AuthsvcRevocationListenerBehind",
                    "AuthsvcDefinitionsStale",
                    "AuthsvcDetectionsStopped",
                    "AuthsvcDeliveryStopped",
                    "AuthsvcSigningKeyOld",
                    "AuthsvcPoolExhausted",
                ),
                cause=cause,
                repair=stack.aclose,
            )


async def listener_is_killed(scene: Scene) -> None:
    async with scene.installation("deaf") as installation, AsyncExitStack() as stack:
        superuser = await asyncpg.connect(scene.server.dsn("postgres", user="postgres"))
        stack.push_async_callback(superuser.close)
        await superuser.execute("CREATE ROLE bell LOGIN PASSWORD 'bell'")
        _, _, rest = installation.dsn.partition("@")
        replica = await installation.start(
            AUTHSVC_DATABASE__LISTENER_URL=f"postgresql://bell:bell@{rest}"
        )
        installation.load(replica)

        async def cause() -> None:
            # The alert is for those that were up before.
            up = f'authsvc_doorbell_up{{job="{installation.job}"}}'
            await scene.stage.prometheus.until(f"{up} == 1")
            await superuser.execute("ALTER ROLE bell NOLOGIN")
            await superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bell'"
            )

        async def repair() -> None:
            await superuser.execute("ALTER ROLE bell LOGIN")

        await scene.stage.try_alerts(
            installation,
            "the listener's session is ended, and its role may not connect",
            ("AuthsvcDoorbellDown",),
            cause=cause,
            repair=repair,
        )


async def network_is_slow(scene: Scene) -> None:
    async with scene.installation("slow") as installation, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(installation.dsn))
        replica = await installation.start(dsn=proxy.dsn)
        sessions = SessionServiceStub(replica.channel("edge"))
        token = (await logged_in(replica, await registered(replica))).session_token

        def validate() -> Awaitable[object]:
            request = ValidateSessionRequest(session_token=token, strict=True)
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
        late = await installation.start(dsn=proxy.dsn)
        email = await registered(direct)
        sessions = SessionServiceStub(direct.channel("app"))
        age = f'authsvc_revocation_read_age_seconds{{instance="{late.http}"}}'

        async def cut() -> None:
            """Let it miss some revocations for more than a second."""
            proxy.hold()
            for _ in range(3):
                tokens = await logged_in(direct, email)
                await sessions.RevokeUserSessions(RevokeUserSessionsRequest(user_id=tokens.user_id))
            await scene.stage.prometheus.until(f"{age} > 1.5")
            proxy.release()
            await scene.stage.prometheus.until(f"{age} < 1")

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
