"""`authsvc doctor` finds what is wrong with a real database, and says it once if it is down."""

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import pytest_asyncio

from authsvc.cli.doctor.findings import Level
from authsvc.config import Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.store.postgres.connector import Connection
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy

BEHIND_POOLER = 1


def on(settings: Settings, dsn: str, **changes: object) -> Settings:
    """Return the settings with another database."""
    return settings.model_copy(update={"database": settings_for(dsn, **{"pool_max": 16} | changes)})


def with_options(dsn: str, options: str) -> str:
    """Return an address whose sessions have these settings, such as `-csearch_path=x`."""
    return f"{dsn}{'&' if '?' in dsn else '?'}options={quote(options)}"


@pytest.fixture
def shared(settings: Settings, worker_dsn: str) -> Settings:
    """Settings for a database that other tests use, too, so nothing in it may be changed."""
    return on(settings, worker_dsn)


@pytest_asyncio.fixture
async def connection(database_dsn: str) -> AsyncIterator[Connection]:
    """A connection to this test's own database."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


# Reachable


async def test_unreachable_database_is_one_error_and_the_rest_is_skipped(
    settings: Settings,
) -> None:
    gone = on(settings, "postgresql://a:hidden@127.0.0.1:1/b", listener_url=None)
    text = await only(Level.ERROR, "database.reachable", gone)
    assert "refused (127.0.0.1:1)" in text
    for name in ("database.version", "machine.clock", "secrets.usable", "database.listener"):
        assert await only(Level.SKIPPED, name, gone) == "the database can't be reached"


async def test_wrong_password_is_told_without_it(settings: Settings, worker_dsn: str) -> None:
    parts = urlsplit(worker_dsn)
    user, _, where = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:hidden@{where}"
    wrong = on(settings, parts._replace(netloc=netloc).geturl())
    found = await examine("database.reachable", wrong)
    assert [each.level for each in found] == [Level.ERROR]
    assert "password authentication failed" in found[0].text
    assert "hidden" not in str(found)


async def test_reachable_database_is_ok(shared: Settings) -> None:
    assert "writable" in await only(Level.OK, "database.reachable", shared)


async def test_silent_database_ends_the_check_by_its_own_limit(
    settings: Settings, worker_dsn: str
) -> None:
    async with Proxy(worker_dsn) as proxy:
        proxy.hold()
        silent = on(settings, proxy.dsn, connect_timeout="60s")
        text = await only(Level.ERROR, "database.reachable", silent, timeout=0.2)
        assert text == "it was not done within 0.2 s"


# Version and rights


async def test_old_server_is_an_error(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    await connection.execute(
        "CREATE SCHEMA old; CREATE FUNCTION old.current_setting(text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT CASE $1 WHEN 'server_version' THEN '14.11'"
        " WHEN 'server_version_num' THEN '140011' ELSE pg_catalog.current_setting($1) END $$"
    )
    dsn = with_options(database_dsn, "-csearch_path=old,pg_catalog,public")
    text = await only(Level.ERROR, "database.version", on(settings, dsn))
    assert text == "PostgreSQL 14.11 is older than 15"


async def test_encoding_without_all_characters_is_an_error(
    settings: Settings, postgres_server: PostgresServer, shared: Settings
) -> None:
    assert "UTF8" in await only(Level.OK, "database.version", shared)
    name = f"{postgres_server.prefix}_latin"
    postgres_server._execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        latin = on(settings, postgres_server.dsn(name))
        assert "encoding is LATIN1" in await only(Level.ERROR, "database.version", latin)
    finally:
        postgres_server.drop(name)


async def test_missing_rights_are_named(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    await connection.execute(
        "REVOKE INSERT, DELETE ON sessions FROM current_user;"
        "REVOKE SELECT ON schema_version FROM current_user"
    )
    text = await only(Level.ERROR, "database.rights", on(settings, database_dsn))
    assert "lacks DELETE on sessions, INSERT on sessions, SELECT on schema_version" in text


async def test_role_with_more_power_than_it_needs_is_named(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    """The role of the tests may create databases; a superuser may everything."""
    text = await only(Level.WARNING, "database.rights", on(settings, database_dsn))
    assert "may create databases" in text
    await connection.execute(
        "CREATE SCHEMA mighty; CREATE VIEW mighty.pg_roles AS SELECT rolname, true AS rolsuper,"
        " true AS rolcreaterole, false AS rolcreatedb, true AS rolreplication,"
        " true AS rolbypassrls, rolconnlimit FROM pg_catalog.pg_roles"
    )
    mighty = with_options(database_dsn, "-csearch_path=mighty,pg_catalog,public")
    found = await examine("database.rights", on(settings, mighty))
    assert [each.level for each in found] == [Level.WARNING] * 4
    assert "is a superuser" in found[0].text


# Schema


async def test_missing_migrations_are_an_error(settings: Settings, blank_dsn: str) -> None:
    found = await examine("database.schema", on(settings, blank_dsn))
    assert [each.level for each in found] == [Level.ERROR]
    assert "has 0 of " in found[0].text
    assert "authsvc migrate" in found[0].remedy


async def test_migrations_of_a_later_version_are_named(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    assert await levels("database.schema", on(settings, database_dsn)) == [Level.OK]
    await connection.execute(
        "INSERT INTO schema_version (version, name, checksum)"
        " SELECT max(version) + 1, 'later', '' FROM schema_version"
    )
    text = await only(Level.WARNING, "database.schema", on(settings, database_dsn))
    assert text.startswith("the database has 1 migrations of a later version")


async def test_index_whose_building_failed_is_named(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    await connection.execute(
        "INSERT INTO policies (name, algorithm, requests, window_us, burst, durable, unlimited,"
        " shadow, update_time) SELECT 'p' || n, 'token_bucket', 1, 1000000, 0, false, false, false,"
        " now() FROM generate_series(1, 2) AS n"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON policies (burst)")
    text = await only(Level.WARNING, "database.schema", on(settings, database_dsn))
    assert text.startswith("the index broken is not valid")


# Latency, pooler, notifications


async def test_far_database_is_named(settings: Settings, worker_dsn: str) -> None:
    async with Proxy(worker_dsn, delay=0.03) as proxy:
        text = await only(Level.ERROR, "database.latency", on(settings, proxy.dsn))
        assert text.startswith("a round trip takes ")


async def test_pooler_without_a_direct_address_is_named(
    settings: Settings, worker_dsn: str
) -> None:
    assert "no pooler" in await only(Level.OK, "database.pooler", on(settings, worker_dsn))
    async with Proxy(worker_dsn, process_id=BEHIND_POOLER) as proxy:
        pooled = on(settings, proxy.dsn)
        text = await only(Level.WARNING, "database.pooler", pooled)
        assert "so revocations and messages are polled for" in text
        skipped = await only(Level.SKIPPED, "database.listener", pooled)
        assert "see database.pooler" in skipped
        direct = on(settings, proxy.dsn, listener_url=worker_dsn)
        assert "passes it by" in await only(Level.OK, "database.pooler", direct)
        assert "notification arrived" in await only(Level.OK, "database.listener", direct)


async def test_listener_behind_a_pooler_is_an_error(settings: Settings, worker_dsn: str) -> None:
    async with Proxy(worker_dsn, process_id=BEHIND_POOLER) as proxy:
        wrong = on(settings, worker_dsn, listener_url=proxy.dsn)
        assert "leads to a pooler" in await only(Level.ERROR, "database.listener", wrong)


async def test_listener_that_cannot_connect_is_an_error(
    settings: Settings, worker_dsn: str
) -> None:
    wrong = on(settings, worker_dsn, listener_url="postgresql://a:hidden@127.0.0.1:1/b")
    text = await only(Level.ERROR, "database.listener", wrong)
    assert text.startswith("database.listener_url: the connection was refused")


# Connections and durability


async def test_more_connections_than_the_server_has_are_an_error(shared: Settings) -> None:
    assert "1 replica can open 20 connections" in await only(
        Level.OK, "database.connections", shared, replicas=1
    )
    text = await only(Level.ERROR, "database.connections", shared, replicas=1_000)
    assert text.startswith("1000 replicas can open 20000 connections, 20 each, but the server")


async def test_limit_of_the_database_counts_too(
    settings: Settings, connection: Connection, database_dsn: str
) -> None:
    database = urlsplit(database_dsn).path[1:]
    own = on(settings, database_dsn)
    await connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 19")
    text = await only(Level.ERROR, "database.connections", own, replicas=1)
    assert text.endswith("but the database allows 19")
    await connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 39")
    text = await only(Level.WARNING, "database.connections", own, replicas=1)
    assert "a rolling update" in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("synchronous_commit", "off", "synchronous_commit is off"),
        ("default_transaction_isolation", "'serializable'", "default_transaction_isolation is"),
    ],
)
async def test_setting_that_loses_writes_or_fails_them_is_an_error(
    settings: Settings,
    connection: Connection,
    database_dsn: str,
    name: str,
    value: str,
    said: str,
) -> None:
    database = urlsplit(database_dsn).path[1:]
    await connection.execute(f"ALTER DATABASE {database} SET {name} = {value}")
    found = await examine("database.durability", on(settings, database_dsn))
    # The server of the tests has more that is off, to be quick.
    [finding] = [each for each in found if said in each.text]
    assert finding.level is Level.ERROR


# Clock


async def test_clock_that_is_off_is_named(shared: Settings) -> None:
    assert await levels("machine.clock", shared) == [Level.OK]
    now = SystemClock().now()
    late, early = FakeClock(now - timedelta(seconds=10)), FakeClock(now + timedelta(minutes=5))
    text = await only(Level.WARNING, "machine.clock", shared, machine=late)
    assert "behind the database's" in text
    text = await only(Level.ERROR, "machine.clock", shared, machine=early)
    assert "ahead of the database's" in text
