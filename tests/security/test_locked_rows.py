"""A row that somebody holds: it delays its own account, for a second, and no other."""

import asyncio

import asyncpg

from authsvc.config import Settings
from authsvc.store.postgres.database import Connection
from authsvc.v1.auth_service_pb2 import LoginRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords
from tests.support.databases import settings_for, until
from tests.support.probe import outcome
from tests.support.service import StartService

_PATIENCE = 60.0
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
_LOCK = "SELECT FROM users WHERE email = $1 FOR UPDATE"


async def _two_wait(connection: Connection) -> bool:
    return int(await connection.fetchval(_WAITING)) == 2


async def test_logins_at_locked_row_leave_connections_for_others(
    start_service: StartService, settings: Settings, database_dsn: str
) -> None:
    database = settings_for(database_dsn, pool_max=8)
    # Thirty costly hashes would wait for one another, not for the row.
    changes = {"database": database, "passwords": cheap_passwords()}
    service = await start_service(settings.model_copy(update=changes))
    await service.register()
    await service.register("other@example.test")
    holder = await asyncpg.connect(database_dsn)
    # Within a transaction, pg_stat_activity stays as it was when first read.
    watcher = await asyncpg.connect(database_dsn)
    try:
        async with holder.transaction():
            await holder.execute(_LOCK, EMAIL)
            # Each from an address of its own, so that no limit refuses them.
            requests = [
                LoginRequest(
                    email=EMAIL,
                    password=PASSWORD,
                    client=ClientContext(ip=f"198.18.{number}.1"),
                )
                for number in range(30)
            ]
            logins = [
                asyncio.ensure_future(outcome(service.auth().Login(each))) for each in requests
            ]
            # A quarter of the connections waits for the row.
            await until(lambda: _two_wait(watcher))
            async with asyncio.timeout(_PATIENCE):
                for _ in range(3):
                    assert (await service.login("other@example.test")).access_token
            assert await _two_wait(watcher)
        # The account's own limit refuses some of so many at once, and a busy machine gives up some.
        outcomes = set(await asyncio.gather(*logins))
        assert outcomes <= {"OK", "TOO_MANY_ATTEMPTS", "STORE_UNAVAILABLE"}
    finally:
        await watcher.close()
        await holder.close()


async def test_lock_is_not_waited_for_longer_than_its_timeout(
    start_service: StartService, settings: Settings, database_dsn: str
) -> None:
    database = settings_for(database_dsn, lock_timeout="10ms")
    service = await start_service(settings.model_copy(update={"database": database}))
    await service.register()
    holder = await asyncpg.connect(database_dsn)
    try:
        async with holder.transaction():
            await holder.execute(_LOCK, EMAIL)
            request = LoginRequest(email=EMAIL, password=PASSWORD)
            assert await outcome(service.auth().Login(request)) == "STORE_UNAVAILABLE"
        assert (await service.login()).access_token
    finally:
        await holder.close()
