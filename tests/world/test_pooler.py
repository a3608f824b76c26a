"""Replicas behind a real PgBouncer in transaction mode, with the shipped settings."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest

from authsvc.config import DatabaseSettings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.database import Database
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1 import session_service_pb2 as sessions
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.databases import kill
from tests.support.pgbouncer import PgBouncer
from tests.support.processes import Replica

if TYPE_CHECKING:
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

pytestmark = pytest.mark.world

_PASSWORD = "Analytical-Engine-1843"
_PATIENCE = 120.0
_USERS = 8


async def test_statement_never_meets_parameters_of_another(pooler: PgBouncer) -> None:
    settings = DatabaseSettings.model_validate({"url": pooler.dsn})

    async def ask(database: Database, replica: int) -> None:
        for number in range(200):
            async with database.connection() as connection:
                # Each replica numbers its statements alike, but their texts differ.
                mark = f"{replica}:{number % 7}"
                query = f"SELECT '{mark}' || $1::text"
                assert await connection.fetchval(query, f":{number}") == f"{mark}:{number}"

    databases = [await Database.open(settings) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for replica, database in enumerate(databases):
            for _ in range(16):
                group.create_task(ask(database, replica))
    for database in databases:
        await database.close()


@pytest.fixture
def replicas(start_replica: Callable[[str], Replica], pooler: PgBouncer) -> list[Replica]:
    return [start_replica(pooler.dsn) for _ in range(2)]


class Visitor:
    """Users that register, log in, and do everything else on both replicas, one after another.

    Every answer must be about the current user. `failures` counts what failed calls were told; the
    user is given up after one.
    """

    def __init__(self, number: int, replicas: list[Replica], failures: Counter[str]) -> None:
        self._number = number
        self._failures = failures
        self._app = itertools.cycle([replica.channel("app") for replica in replicas])
        self._edge = itertools.cycle([replica.channel("edge") for replica in replicas])
        self.completed = 0
        self._made = 0

    async def run(self) -> None:
        while True:
            self._made += 1
            try:
                await self._live(f"visitor-{self._number}-{self._made}@example.test")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self._failures[error.details() or ""] += 1
                await asyncio.sleep(0.1)
            else:
                self.completed += 1

    async def _live(self, email: str) -> None:
        client = ClientContext(ip=f"198.18.{self._number}.{self._made % 250 + 1}")
        registration = auth.RegisterRequest(email=email, password=_PASSWORD, client=client)
        user = (await self._auth().Register(registration)).user_id
        login = auth.LoginRequest(email=email, password=_PASSWORD, client=client)
        tokens = (await self._auth().Login(login)).tokens
        assert tokens.user_id == user
        secret = tokens.session_token
        for _ in range(3):
            await self._use(user, tokens.access_token, secret)
            request = auth.RefreshTokensRequest(refresh_token=tokens.refresh_token, client=client)
            tokens = (await self._auth().RefreshTokens(request)).tokens
            assert tokens.user_id == user
        ended = sessions.RevokeSessionRequest(session_id=tokens.session_id)
        await SessionServiceStub(next(self._app)).RevokeSession(ended)
        check = sessions.ValidateSessionRequest(session_token=secret, strict=True)
        answer = await SessionServiceStub(next(self._edge)).ValidateSession(check)
        assert not answer.active

    async def _use(self, user: str, access_token: str, session_token: str) -> None:
        token = auth.ValidateTokenRequest(access_token=access_token, strict=True)
        session = sessions.ValidateSessionRequest(session_token=session_token, strict=True)
        charge = limits.Charge(policy="api", key=f"user:{user}")
        check = limits.CheckRateLimitRequest(charges=[charge])
        found = await AuthServiceStub(next(self._edge)).ValidateToken(token)
        judged = await SessionServiceStub(next(self._edge)).ValidateSession(session)
        verdict = await RateLimitServiceStub(next(self._edge)).CheckRateLimit(check)
        assert found.active
        assert found.claims.subject == user
        assert judged.active
        assert judged.session.user_id == user
        assert [each.key for each in verdict.verdicts] == [charge.key]

    def _auth(self) -> "AuthServiceAsyncStub":
        return AuthServiceStub(next(self._app))


async def _complete(visitors: list[Visitor], more: int) -> None:
    """Return when each visitor has completed so many more lives."""
    goals = [visitor.completed + more for visitor in visitors]
    async with asyncio.timeout(_PATIENCE):
        while any(  # noqa: ASYNC110 - nothing signals it
            visitor.completed < goal for visitor, goal in zip(visitors, goals, strict=True)
        ):
            await asyncio.sleep(0.05)


async def test_two_replicas_serve_through_pooler_and_restarts(
    pooler: PgBouncer, server: EmbeddedPostgres, replicas: list[Replica]
) -> None:
    failures: Counter[str] = Counter()
    visitors = [Visitor(number, replicas, failures) for number in range(_USERS)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(visitor.run()) for visitor in visitors]
        await _complete(visitors, 2)
        assert not failures
        pooler.kill()
        pooler.start()
        await _complete(visitors, 1)
        kill(server)
        await asyncio.to_thread(server.start)
        await _complete(visitors, 1)
        for task in tasks:
            task.cancel()
