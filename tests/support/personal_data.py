"""Which columns of the schema may hold data on a person, found in PostgreSQL's own catalog."""

import asyncpg

# Columns of these types, or with names like these, may hold data on a person; and so does whatever
# refers to a user's rows.
_FIND = """
WITH RECURSIVE owned AS (
    SELECT 'users'::regclass::oid AS table_id
    UNION
    SELECT conrelid FROM pg_constraint JOIN owned ON confrelid = table_id
    WHERE contype = 'f'),
referring AS (
    SELECT conrelid AS table_id, unnest(conkey) AS number FROM pg_constraint
    WHERE contype = 'f' AND confrelid IN (SELECT table_id FROM owned))
SELECT c.relname::text AS table_name, a.attname::text AS column_name
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND attnum > 0 AND NOT attisdropped
    AND c.relnamespace = 'public'::regnamespace
    AND (atttypid IN ('inet'::regtype, 'cidr'::regtype, 'json'::regtype, 'jsonb'::regtype)
        OR attname ~ '(user|account|session|owner|subject|member|person)(_id|_hash|_key)?$'
        OR attname ~ '(^|_)(e?mail|email_.*|ip|ips|address|agent|user_agent|device.*|phone)$'
        OR attname ~ '^((display|first|last|full|given|family)_)?name$'
        OR attname ~ '^(key|identity|detail|locale|birth.*|sealed_.*|network.*)$'
        OR (attrelid, attnum) IN (SELECT table_id, number FROM referring))
ORDER BY 1, 2
"""
# Foreign keys that keep rows when the user's row, or one that depends on it, is deleted.
_KEEPING = """
WITH RECURSIVE owned AS (
    SELECT 'users'::regclass::oid AS table_id
    UNION
    SELECT conrelid FROM pg_constraint JOIN owned ON confrelid = table_id
    WHERE contype = 'f')
SELECT conrelid::regclass::text AS table_name, conname::text AS name FROM pg_constraint
WHERE contype = 'f' AND confrelid IN (SELECT table_id FROM owned) AND confdeltype <> 'c'
"""


async def personal_columns(dsn: str) -> set[tuple[str, str]]:
    """Return the table and the name of each column that may hold data on a person."""
    return {(row[0], row[1]) for row in await _fetch(dsn, _FIND)}


async def keeping_constraints(dsn: str) -> set[tuple[str, str]]:
    """Return the foreign keys to users' rows that don't delete on cascade."""
    return {(row[0], row[1]) for row in await _fetch(dsn, _KEEPING)}


async def _fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()
