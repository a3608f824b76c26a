"""Owns what an operator wants to know of the server and the role; it reads, and changes nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from authsvc.store.postgres.connector import FAILURES, Connection
from authsvc.store.postgres.database import Database

OLDEST_VERSION = 15

_SERVER = """
SELECT current_setting('server_version_num')::integer / 10000 AS major,
    current_setting('server_version') AS version,
    (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database())
        AS encoding
"""


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """The server's version, in full and its first number, and the encoding of the database."""

    text: str
    major: int
    encoding: str


async def read_version(connection: Connection) -> ServerVersion:
    """Return the server's version."""
    [row] = await connection.fetch(_SERVER)
    return ServerVersion(row["version"], row["major"], row["encoding"])


_ROLE = """
SELECT rolname AS name, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
    rolconnlimit AS role_limit,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit
FROM pg_roles WHERE rolname = current_user
"""
_POWERS = {
    "rolsuper": "is a superuser",
    "rolcreaterole": "may create roles",
    "rolcreatedb": "may create databases",
    "rolreplication": "may copy the whole server",
    "rolbypassrls": "bypasses row security",
}


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """The role that the service connects as: what it may do beyond its tables, and its limits.

    The limits are of connections; None if there is none.
    """

    name: str
    powers: Sequence[str]
    connection_limits: Mapping[str, int]


async def read_role(connection: Connection) -> RoleFacts:
    """Return the present role."""
    [row] = await connection.fetch(_ROLE)
    limits = {"role": row["role_limit"], "database": row["database_limit"]}
    return RoleFacts(
        row["name"],
        [text for column, text in _POWERS.items() if row[column]],
        {name: limit for name, limit in limits.items() if limit >= 0},
    )


# What every use case together needs of a table. The schema is the one that migrations made.
_MISSING_RIGHTS = """
WITH tables AS (
    SELECT relation.oid, relation.relname
    FROM pg_class AS relation JOIN pg_class AS version USING (relnamespace)
    WHERE version.oid = to_regclass('schema_version') AND relation.relname = ANY ($1::text[])
        AND relation.relkind IN ('r', 'p')
)
SELECT right_name || ' on ' || relname AS missing
FROM tables CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_name
WHERE relname <> 'schema_version' AND NOT has_table_privilege(tables.oid, right_name)
UNION ALL
SELECT 'SELECT on ' || relname FROM tables
WHERE relname = 'schema_version' AND NOT has_table_privilege(tables.oid, 'SELECT')
ORDER BY missing
"""


async def missing_rights(connection: Connection, tables: Sequence[str]) -> Sequence[str]:
    """Return what the role may not do with these tables, such as "INSERT on users"."""
    return [row["missing"] for row in await connection.fetch(_MISSING_RIGHTS, tables)]


_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)"


async def read_settings(connection: Connection, names: Sequence[str]) -> Mapping[str, str]:
    """Return settings of the server as they hold for this session, in the server's own units."""
    return {row["name"]: row["setting"] for row in await connection.fetch(_SETTINGS, names)}


# Without the role pg_monitor, the rows are visible, but not what they say.
_STANDBYS = "SELECT count(*) FROM pg_stat_replication"


async def count_standbys(connection: Connection) -> int:
    """Return how many standbys and other receivers follow the server at present."""
    number: int = await connection.fetchval(_STANDBYS)
    return number


_CONNECTIONS = """
SELECT count(*) AS all_of_server,
    count(*) FILTER (WHERE usename = current_user) AS own,
    count(DISTINCT client_addr) FILTER (WHERE usename = current_user
        AND application_name ~ '^authsvc( |$)') AS clients
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""


@dataclass(frozen=True, slots=True)
class ConnectionCount:
    """Connections that are open: all of the server's, and those of the role.

    `clients` are the addresses from which replicas are connected at present.
    """

    all_of_server: int
    own: int
    clients: int


async def count_connections(connection: Connection) -> ConnectionCount:
    """Return how many connections are open, this one among them."""
    [row] = await connection.fetch(_CONNECTIONS)
    return ConnectionCount(row["all_of_server"], row["own"], row["clients"])


_INVALID_INDEXES = """
SELECT indexrelid::regclass::text AS name
FROM pg_index JOIN pg_class AS owner ON owner.oid = indrelid
    JOIN pg_class AS version ON version.relnamespace = owner.relnamespace
WHERE version.oid = to_regclass('schema_version') AND owner.relname = ANY ($1::text[])
    AND NOT (indisvalid AND indisready)
ORDER BY name
"""


async def invalid_indexes(connection: Connection, tables: Sequence[str]) -> Sequence[str]:
    """Return the indexes of these tables whose building was interrupted."""
    return [row["name"] for row in await connection.fetch(_INVALID_INDEXES, tables)]


_NOTHING = "SELECT"


async def round_trips(connection: Connection, count: int) -> Sequence[float]:
    """Return how many seconds each of `count` statements took that do nothing."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await connection.execute(_NOTHING)
        taken.append(time.perf_counter() - began)
    return taken


_PROCESS = "SELECT pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Pooling:
    """How an address leads to the server.

    `is_direct` is what the service believes, by the process id that the connection was given;
    `shares_sessions` tells that a pooler was seen to execute a connection's statements in a session
    that others use, too.
    """

    is_direct: bool
    shares_sessions: bool


async def read_pooling(database: Database, others: int = 4) -> Pooling:
    """Return whether there is a pooler, and whether sessions are shared behind it.

    A connection that is idle holds its session if it has one of its own. So a session that another
    connection then gets is shared, as is one that has changed.

    Raises StoreUnavailable.
    """
    connections = []
    try:
        connections.append(first := await database.connect())
        before = await first.fetchval(_PROCESS)
        seen = set()
        for _ in range(others):
            connections.append(other := await database.connect())
            await other.execute("BEGIN")
            seen.add(await other.fetchval(_PROCESS))
            if before in seen:
                return Pooling(first.is_direct, shares_sessions=True)
        after = await first.fetchval(_PROCESS)
        return Pooling(first.is_direct, shares_sessions=before != after)
    finally:
        for connection in connections:
            # Otherwise a pooler would have to end the transaction, and some close the session.
            try:
                await connection.execute("ROLLBACK")
                await connection.close(timeout=1.0)
            except FAILURES:
                connection.terminate()


_CAN_IDENTIFY = """
SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
    AND has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE')
"""


async def can_identify_server(connection: Connection) -> bool:
    """Return whether the role may ask for what identifies the server and its timeline."""
    try:
        return bool(await connection.fetchval(_CAN_IDENTIFY))
    except asyncpg.UndefinedFunctionError:
        return False
