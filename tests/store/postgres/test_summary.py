"""The names of statements in traces."""

import importlib
import re
from collections.abc import Iterator

import pytest

from authsvc.store.postgres.connector import as_pool_connection
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.summary import summary
from authsvc.tracing import SpanKind
from tests.support.documents import REPOSITORY
from tests.support.traced import traced

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


def statements() -> Iterator[str]:
    """Yield all constants of the store that are statements."""
    for path in sorted((REPOSITORY / "authsvc/store").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, str) and _STATEMENT.match(value):
                yield value


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT a FROM users WHERE b = $1", "SELECT users"),
        ("INSERT INTO sessions (a) VALUES ($1)", "INSERT sessions"),
        ("UPDATE users AS u SET a = $1", "UPDATE users"),
        ("DELETE FROM codes -- FROM nowhere\nWHERE a = 1", "DELETE codes"),
        ("SELECT a FROM users u JOIN sessions s USING (b)", "SELECT users SELECT sessions"),
        (
            "WITH x AS (UPDATE sessions SET a = b RETURNING c) INSERT INTO c SELECT 1 FROM x",
            "UPDATE sessions INSERT c",
        ),
        ("SELECT extract(epoch FROM a) FROM b", "SELECT b"),
        ("SELECT * FROM rate_limit_charge($1, $2)", "SELECT rate_limit_charge"),
        ("COMMIT", "COMMIT"),
        ("BEGIN; SET LOCAL lock_timeout = 1", "BEGIN"),
        ("", ""),
    ],
)
def test_statement_is_named_by_what_it_does(statement: str, name: str) -> None:
    assert summary(statement) == name


def test_every_statement_of_the_store_has_a_short_name() -> None:
    names = [summary(statement) for statement in statements()]
    assert len(names) > 200
    for name in names:
        assert re.fullmatch(r"[A-Z]+( [a-z_]+( [A-Z]+ [a-z_]+){0,5})?", name), name


async def test_statements_of_a_traced_call_are_its_parts(database: Database) -> None:
    with traced() as parts:
        async with database.transaction() as connection:
            await connection.fetchval("SELECT count(*) FROM users WHERE email = $1", "a@b.test")
    assert [part.name for part in parts] == ["BEGIN", "SELECT users", "COMMIT"]
    assert {part.kind for part in parts} == {SpanKind.CLIENT}
    assert "a@b.test" not in str([part.attributes for part in parts])
    # The connection is as before for the next call.
    async with database.connection() as connection:
        lent = as_pool_connection(connection)
        assert lent is not None
        assert not lent.is_traced
        await connection.fetchval("SELECT 1")
    assert len(parts) == 3


async def test_failed_statement_has_its_sqlstate(database: Database) -> None:
    with traced() as parts:
        async with database.connection() as connection:
            with pytest.raises(Exception, match="nowhere"):
                await connection.fetch("SELECT secret FROM nowhere")
    [part] = parts
    assert part.failed
    assert part.attributes["error.type"] == "42P01"
