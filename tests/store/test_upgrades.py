"""What is read of the database before an upgrade: sizes, sessions, disk."""

from datetime import timedelta

import asyncpg

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store import upgrades
from authsvc.store.postgres.connector import APPLICATION_NAME, Connector
from authsvc.store.postgres.migrator import connected
from tests.support.migrations import run_sql


async def test_size_of_a_table_counts_its_partitions_and_indexes(database_dsn: str) -> None:
    async with connected(database_dsn) as connection:
        sizes = await upgrades.table_sizes(connection, ["users", "audit_events", "nothing"])
    assert sizes.keys() == {"users", "audit_events"}
    assert sizes["users"].indexes > 3
    assert sizes["audit_events"].indexes > 3
    assert sizes["audit_events"].rows == 0


async def test_connections_name_the_version(database_dsn: str) -> None:
    async with connected(database_dsn), connected(database_dsn) as connection:
        [found] = await upgrades.connections_of_service(connection)
    assert (found.application, found.count, found.addresses) == (APPLICATION_NAME, 1, 1)


async def test_session_of_another_role_is_counted_as_hidden(own_server: EmbeddedPostgres) -> None:
    """Its transaction can't be seen, and a role that may see it says so."""
    superuser = await asyncpg.connect(own_server.dsn(user="postgres"))
    async with superuser.transaction():
        await superuser.execute("SELECT 1")
        async with connected(own_server.dsn()) as connection:
            assert await upgrades.count_hidden_sessions(connection) == 1
            assert await upgrades.long_sessions(connection, [], timedelta(0)) == []
            await run_sql(own_server.dsn(user="postgres"), "GRANT pg_read_all_stats TO authsvc")
        async with connected(own_server.dsn()) as connection:
            assert await upgrades.count_hidden_sessions(connection) == 0
            [session] = await upgrades.long_sessions(connection, [], timedelta(0))
            assert (session.pid, session.role) == (superuser.get_server_pid(), "postgres")
            # Where the files are is for roles that may read all settings.
            assert await upgrades.free_disk(connection) is None
    await superuser.close()
    async with connected(own_server.dsn(user="postgres")) as connection:
        free = await upgrades.free_disk(connection)
    assert free is not None
    assert free > 0


async def test_disk_behind_a_pooler_is_unknown(own_server: EmbeddedPostgres) -> None:
    connection = await Connector(address=own_server.dsn(user="postgres")).connect()
    connection.is_direct = False
    assert await upgrades.free_disk(connection) is None
    await connection.close()
