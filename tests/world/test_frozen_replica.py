"""A replica that freezes within a transaction: its users are free again within seconds."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
import pytest_asyncio

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.database import Connection
from authsvc.v1.auth_service_pb2 import LoginRequest, RegisterRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.session_service_pb2 import RevokeUserSessionsRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.databases import until, waits_for_a_lock
from tests.support.pgbouncer import PgBouncer
from tests.support.probe import outcome
from tests.support.processes import Replica
from tests.world.install import NEW_PGBOUNCER, PGBOUNCER

pytestmark = pytest.mark.world

_IDLES = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle in transaction')"
# Seconds in which a call must succeed that fails for as long as the replica stays frozen.
_PATIENCE = 30.0


@pytest_asyncio.fixture(
    params=[None, PGBOUNCER, NEW_PGBOUNCER],
    ids=lambda program: program.name if program else "direct",
)
async def address(request: pytest.FixtureRequest, server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The server's address: its own, or PgBouncer's."""
    if request.param is None:
        yield server.dsn()
        return
    async with PgBouncer(request.param, server.dsn()) as pooler:
        yield pooler.dsn


async def _idles_in_transaction(connection: Connection) -> bool:
    return bool(await connection.fetchval(_IDLES))


async def test_replica_frozen_in_transaction_frees_its_users_within_seconds(
    address: str, server: EmbeddedPostgres, start_replica: Callable[[str], Replica]
) -> None:
    frozen, other = start_replica(address), start_replica(address)
    revoking, serving = frozen.channel("app"), other.channel("app")
    auth = AuthServiceStub(serving)
    registration = RegisterRequest(email=EMAIL, password=PASSWORD)
    user_id = (await auth.Register(registration)).user_id
    request = RevokeUserSessionsRequest(user_id=user_id)
    holder = await asyncpg.connect(server.dsn())
    async with holder.transaction():
        await holder.execute("SELECT FROM users WHERE user_id = $1 FOR UPDATE", user_id)
        call = asyncio.ensure_future(
            outcome(SessionServiceStub(revoking).RevokeUserSessions(request))
        )
        await until(lambda: waits_for_a_lock(holder))
        # The replica gets the lock, and never hears of it.
        frozen.process.freeze()
    await until(lambda: _idles_in_transaction(holder))
    try:
        # Nothing but the server's own timeout ends that transaction.
        login = LoginRequest(email=EMAIL, password=PASSWORD)
        async with asyncio.timeout(_PATIENCE):
            while await outcome(auth.Login(login)) != "OK":
                pass
    finally:
        frozen.process.send(signal.SIGCONT)
    assert await call == "STORE_UNAVAILABLE"
    async with asyncio.timeout(_PATIENCE):
        # The connection that the server closed is replaced.
        while await outcome(SessionServiceStub(revoking).RevokeUserSessions(request)) != "OK":
            pass
    await holder.close()
    for channel in (revoking, serving):
        await channel.close()
