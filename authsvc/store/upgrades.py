"""Owns what an upgrade has to know of the database: sizes, sessions in the way, unfinished indexes.

Nothing here takes a lock that anybody would wait for.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import asyncpg

from authsvc.models.upgrades import Connections, Place, Session, TableSize
from authsvc.store.postgres.connector import Connection, PoolConnection

_SELECT_PLACE = """
SELECT current_schema() AS schema,
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
    coalesce(array_agg(relname::text ORDER BY relname), '{}') AS present,
    coalesce(array_agg(relname::text ORDER BY relname) FILTER (
        WHERE NOT pg_has_role(relowner, 'USAGE')), '{}') AS of_others
FROM pg_class
WHERE relname = ANY ($1) AND relnamespace = quote_ident(current_schema())::regnamespace
"""
# A partitioned table has no rows of its own, although it has an estimate.
_SELECT_SIZES = """
WITH parts AS (
    SELECT c.oid, coalesce(pg_partition_root(c.oid), c.oid)::regclass::text AS name, c.reltuples
    FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = quote_ident(current_schema())::regnamespace
)
SELECT name, sum(greatest(reltuples, 0))::bigint AS rows, sum(pg_table_size(oid))::bigint AS bytes,
    max((SELECT count(*) FROM pg_index WHERE indrelid = oid))::integer AS indexes
FROM parts WHERE name = ANY ($1) GROUP BY name
"""
# What others may not see of a session is NULL.
_SELECT_SESSIONS = """
SELECT pid, coalesce(application_name, '') AS application, coalesce(usename, '') AS role,
    now() - xact_start AS duration,
    ARRAY(SELECT DISTINCT coalesce(pg_partition_root(relation)::regclass, relation::regclass)::text
          FROM pg_locks WHERE pg_locks.pid = activity.pid AND locktype = 'relation'
          AND coalesce(pg_partition_root(relation)::regclass, relation::regclass)::text = ANY ($1)
          ORDER BY 1) AS tables
FROM pg_stat_activity AS activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND xact_start < now() - $2::interval
    AND (backend_type = 'client backend' OR query LIKE '%to prevent wraparound%')
ORDER BY xact_start
"""
# Nobody can even read what is locked so. Of a prepared transaction, there is no process.
_SELECT_HOLDERS = """
SELECT pid, coalesce(application_name, '') AS application, coalesce(usename, '') AS role,
    coalesce(now() - xact_start, interval '0') AS duration,
    array_agg(DISTINCT relation::regclass::text) AS tables
FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted
    AND datname = current_database()
    AND coalesce(pg_partition_root(relation)::regclass, relation::regclass)::text = ANY ($1)
GROUP BY pid, application_name, usename, xact_start ORDER BY xact_start
"""
_COUNT_HIDDEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND query = '<insufficient privilege>'
"""
_SELECT_PREPARED = """
SELECT gid, now() - prepared AS duration FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared
"""
_SELECT_CONNECTIONS = """
SELECT application_name AS application, count(*) AS count,
    count(DISTINCT coalesce(host(client_addr), '')) AS addresses
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend' AND application_name ~ '^authsvc( |$)'
GROUP BY application_name ORDER BY application_name
"""
_SELECT_UNFINISHED = """
SELECT indexrelid::regclass::text AS name FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid AND relkind = 'i'
    AND relnamespace = quote_ident(current_schema())::regnamespace
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid)
ORDER BY 1
"""
# NULL through a Unix socket, which only this machine has.
_SELECT_FOLDER = """
SELECT current_setting('data_directory') AS folder WHERE inet_server_addr() IS NULL
"""


async def read_place(connection: Connection, tables: Collection[str]) -> Place:
    """Return the schema in which migrations create, and those of `tables` that it has."""
    [row] = await connection.fetch(_SELECT_PLACE, list(tables))
    return Place(row["schema"], row["may_create"], row["present"], row["of_others"])


async def table_sizes(connection: Connection, tables: Collection[str]) -> Mapping[str, TableSize]:
    """Return the sizes of tables, by name; partitions count as their table."""
    rows = await connection.fetch(_SELECT_SIZES, list(tables))
    return {row["name"]: TableSize(row["rows"], row["bytes"], row["indexes"]) for row in rows}


async def long_sessions(
    connection: Connection, tables: Collection[str], after: timedelta
) -> Sequence[Session]:
    """Return the sessions that have been in a transaction for longer than `after`, oldest first.

    Each with those of `tables` that it has locked. A vacuum that prevents wraparound is among them,
    as it gives way to nobody.
    """
    rows = await connection.fetch(_SELECT_SESSIONS, list(tables), after)
    return [Session(**row) for row in rows]


async def exclusive_sessions(connection: Connection, tables: Collection[str]) -> Sequence[Session]:
    """Return the sessions because of which nobody can read some of `tables`, oldest first."""
    rows = await connection.fetch(_SELECT_HOLDERS, list(tables))
    return [Session(**row) for row in rows]


async def count_hidden_sessions(connection: Connection) -> int:
    """Return how many sessions belong to roles whose transactions this one may not see."""
    return int(await connection.fetchval(_COUNT_HIDDEN))


async def prepared_transactions(connection: Connection) -> Mapping[str, timedelta]:
    """Return since when each prepared transaction waits for its commit, by its id."""
    rows = await connection.fetch(_SELECT_PREPARED)
    return {row["gid"]: row["duration"] for row in rows}


async def connections_of_service(connection: Connection) -> Sequence[Connections]:
    """Return the connections of replicas and commands of authsvc, by their application_name."""
    rows = await connection.fetch(_SELECT_CONNECTIONS)
    return [Connections(row["application"], row["count"], row["addresses"]) for row in rows]


async def unfinished_indexes(connection: Connection) -> Sequence[str]:
    """Return the invalid indexes that nobody is building."""
    return [row["name"] for row in await connection.fetch(_SELECT_UNFINISHED)]


async def free_disk(connection: PoolConnection) -> int | None:
    """Return the free bytes on the disk of the database, None if that can't be known.

    It is known if this runs on the server's machine, and the role may see where its files are.
    """
    if not connection.is_direct:
        return None
    try:
        folder: str | None = await connection.fetchval(_SELECT_FOLDER)
        if folder is None:
            return None
        # The embedded server's folder is an open file of its own.
        own = f"/proc/{connection.get_server_pid()}/"
        return shutil.disk_usage(folder.replace("/proc/self/", own, 1)).free
    except (asyncpg.InsufficientPrivilegeError, OSError):
        return None
