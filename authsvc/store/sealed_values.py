"""Owns the statements on sealed values of every column, and on what keys and peppers protect."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from authsvc.models.sealing import SIGNING_KEYS, SealedColumn
from authsvc.store.postgres.connector import Connection


@dataclass(frozen=True, slots=True)
class SealedValue:
    """A sealed value and the primary key of its row."""

    row: Any
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resealed:
    """A value to be replaced: the one that was read, and the one to store in its place."""

    value: SealedValue
    sealed: bytes = field(repr=False)


# The names in these statements are constants of `SEALED_COLUMNS`. An empty value seals nothing: it
# is what is left of a message that was sent.
_COUNT_BY_HEADER = """
SELECT sealed_header({column}) AS header, count(*) AS count FROM {table}
WHERE {column} <> '' GROUP BY 1 ORDER BY 1
"""


async def count_by_header(connection: Connection, column: SealedColumn) -> dict[bytes, int]:
    """Return how many values of a column have each header, which names their key."""
    statement = _COUNT_BY_HEADER.format(table=column.table, column=column.column)
    return {row["header"]: row["count"] for row in await connection.fetch(statement)}


# Skips from one header to the next in an index, however many values have the same.
_LIST_HEADERS = """
WITH RECURSIVE found AS (
    (SELECT sealed_header({column}) AS header FROM {table}
     WHERE {column} IS NOT NULL AND {needed} ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT sealed_header({column}) FROM {table}
            WHERE {column} IS NOT NULL AND {needed} AND sealed_header({column}) > header
            ORDER BY 1 LIMIT 1)
    FROM found WHERE header IS NOT NULL)
SELECT header FROM found WHERE header IS NOT NULL
"""


async def list_headers(connection: Connection, column: SealedColumn) -> Sequence[bytes]:
    """Return the headers of a column's values, each once, except those of revoked signing keys."""
    needed = "state <> 'revoked'" if column is SIGNING_KEYS else "true"
    statement = _LIST_HEADERS.format(table=column.table, column=column.column, needed=needed)
    return [row["header"] for row in await connection.fetch(statement)]


_LIST_OTHERS = """
SELECT {row} AS row, {column} AS sealed FROM {table}
WHERE ($1::{row_type} IS NULL OR {row} > $1) AND {column} <> ''
    AND sealed_header({column}) <> $2
ORDER BY {row} LIMIT $3
"""


async def list_others(
    connection: Connection, column: SealedColumn, after: Any, header: bytes, limit: int
) -> Sequence[SealedValue]:
    """Return the next values whose header is another one, in order of their rows' keys."""
    statement = _LIST_OTHERS.format(
        table=column.table, column=column.column, row=column.row, row_type=column.row_type
    )
    rows = await connection.fetch(statement, after, header, limit)
    return [SealedValue(row["row"], row["sealed"]) for row in rows]


# Rows that somebody holds are skipped: waiting for several could end in a deadlock.
_REPLACE = """
WITH wanted AS (
    SELECT * FROM unnest($1::{row_type}[], $2::bytea[], $3::bytea[]) AS wanted (id, was, becomes)),
held AS (
    SELECT id, becomes FROM {table} t JOIN wanted ON t.{row} = id
    WHERE t.{column} = was FOR UPDATE OF t SKIP LOCKED)
UPDATE {table} t SET {column} = becomes FROM held WHERE t.{row} = id
"""


async def replace(connection: Connection, column: SealedColumn, values: Sequence[Resealed]) -> int:
    """Replace values that are still the ones that were read; return how many were replaced."""
    statement = _REPLACE.format(
        table=column.table, column=column.column, row=column.row, row_type=column.row_type
    )
    tag = await connection.execute(
        statement,
        [each.value.row for each in values],
        [each.value.sealed for each in values],
        [each.sealed for each in values],
    )
    return int(tag.rpartition(" ")[2])


_COUNT_RECOVERY_CODES = """
SELECT coalesce(key_id, '') AS key_id, count(*) AS count FROM recovery_codes GROUP BY 1 ORDER BY 1
"""


async def count_recovery_codes(connection: Connection) -> dict[str, int]:
    """Return how many recovery codes were made with each key; "" is an unknown one."""
    rows = await connection.fetch(_COUNT_RECOVERY_CODES)
    return {row["key_id"]: row["count"] for row in rows}


_COUNT_PASSWORDS = """
SELECT coalesce(pepper_id, '') AS pepper_id, count(*) AS count FROM users
WHERE password_hash IS NOT NULL GROUP BY 1 ORDER BY 1
"""


async def count_passwords(connection: Connection) -> dict[str, int]:
    """Return how many passwords are under each pepper; "" is none, as of those imported."""
    rows = await connection.fetch(_COUNT_PASSWORDS)
    return {row["pepper_id"]: row["count"] for row in rows}


_LIST_PEPPERS = """
WITH RECURSIVE found AS (
    (SELECT pepper_id FROM users WHERE pepper_id IS NOT NULL ORDER BY 1 LIMIT 1)
    UNION ALL
    SELECT (SELECT u.pepper_id FROM users u WHERE u.pepper_id > found.pepper_id ORDER BY 1 LIMIT 1)
    FROM found WHERE found.pepper_id IS NOT NULL)
SELECT pepper_id FROM found WHERE pepper_id IS NOT NULL
"""


async def list_peppers(connection: Connection) -> Sequence[str]:
    """Return the peppers of stored passwords, each once."""
    return [row["pepper_id"] for row in await connection.fetch(_LIST_PEPPERS)]
