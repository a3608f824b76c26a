"""Owns the shipped migrations: their files, how each of them runs, and the releases they belong to.

Migrations are numbered SQL files in `store/migrations`. Most run in one transaction. Two kinds of
work take too long for that, and have a file of their own, which can be run again after a crash:

- one `CREATE INDEX CONCURRENTLY name ON table …` or `DROP INDEX CONCURRENTLY name`;
- one statement below the line `-- authsvc: repeat`, which changes a limited number of rows: it is
  repeated, each time in a transaction of its own, until it changes none.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property
from importlib import resources

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_DIRECTIVE = re.compile(r"^-- authsvc: *(.*?) *$", re.MULTILINE)
_CONCURRENTLY = re.compile(r"\b(CREATE|DROP)\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY\b", re.IGNORECASE)
_CREATE_INDEX = re.compile(
    r"\s*CREATE\s+(?P<unique>UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?P<name>[a-z0-9_]+)\s+"
    r"ON\s+(?P<table>[a-z0-9_]+)\s*(?P<rest>[^;]+);\s*"
)
_DROP_INDEX = re.compile(r"\s*DROP\s+INDEX\s+CONCURRENTLY\s+(?P<name>[a-z0-9_]+)\s*;\s*")
_ONE_STATEMENT = re.compile(r"\s*[^;]+;\s*")


class SchemaError(Exception):
    """The database's schema does not fit the code; the message says what to do."""


class Kind(Enum):
    """How a migration runs."""

    TRANSACTION = "transaction"
    BUILD_INDEX = "build index"
    DROP_INDEX = "drop index"
    REPEAT = "repeat"


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """An index to build without locking its table; `rest` is what follows the table's name."""

    name: str
    table: str
    unique: bool
    rest: str


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file; `checksum` is the SHA-256 of its bytes."""

    version: int
    name: str
    sql: str
    checksum: bytes
    kind: Kind = Kind.TRANSACTION
    # Of a migration that builds one.
    index: IndexBuild | None = None

    @property
    def statement(self) -> str:
        """The SQL without comments on lines of their own."""
        return _COMMENT.sub("", self.sql).strip()


@dataclass(frozen=True)
class Schema:
    """The migrations that a version of the code has, and the last one of each release before it."""

    migrations: Sequence[Migration]
    releases: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The number of the last migration."""
        return len(self.migrations)

    @cached_property
    def steps(self) -> Sequence[int]:
        """The last migration of each step, oldest first: of releases that added some."""
        return sorted(set(self.releases.values()))

    def oldest_code(self, version: int) -> int:
        """Return the last migration that code must have to serve a schema of this version.

        It is that of the step before: a migration is safe beside it, but not beside older code.
        """
        return max((step for step in self.steps if step < version), default=0)

    def releases_at(self, version: int) -> Sequence[str]:
        """Return the releases whose last migration has this number, oldest first."""
        return [name for name, last in self.releases.items() if last == version]

    def skipped_by(self, version: int) -> Sequence[str]:
        """Return the releases that an upgrade of a database with this version would skip.

        They are those of the first step after the database's, which is where to go next. Nobody has
        ever served a database that has less than the first step.
        """
        if not self.steps or not self.steps[0] <= version < self.oldest_code(self.version):
            return ()
        return self.releases_at(min(step for step in self.steps if step > version))


@cache
def shipped_schema() -> Schema:
    """Return the migrations and releases of this version of the code."""
    folder = resources.files("authsvc.store") / "migrations"
    files = ((file.name, file.read_bytes()) for file in folder.iterdir())
    return Schema(
        read_migrations((name, content) for name, content in files if name.endswith(".sql")),
        tomllib.loads((folder / "releases.toml").read_text()),
    )


def read_migrations(files: Iterable[tuple[str, bytes]]) -> Sequence[Migration]:
    """Return the migrations of these files (name, content) in order.

    Raises SchemaError if a name is not `0001_name.sql`, the numbers have a gap, or a file that
    should contain one statement alone doesn't.
    """
    migrations = []
    for expected, (name, content) in enumerate(sorted(files), start=1):
        match = _FILE_NAME.fullmatch(name)
        if match is None:
            raise SchemaError(f"The migration {name} is not named like 0001_name.sql.")
        if int(match[1]) != expected:
            raise SchemaError(f"The migration {name} should have the number {expected:04}.")
        migrations.append(_read(expected, name, match[2], content))
    return tuple(migrations)


def _read(version: int, file: str, name: str, content: bytes) -> Migration:
    sql = content.decode()
    statement = _COMMENT.sub("", sql)
    kind, index = Kind.TRANSACTION, None
    directives = _DIRECTIVE.findall(sql)
    if directives not in ([], ["repeat"]):
        raise SchemaError(f"The migration {file} says {directives}; only `repeat` is known.")
    if directives:
        kind = Kind.REPEAT
        if not _ONE_STATEMENT.fullmatch(statement):
            raise SchemaError(f"The migration {file} repeats, so it may have one statement only.")
    elif _CONCURRENTLY.search(statement):
        if build := _CREATE_INDEX.fullmatch(statement):
            kind = Kind.BUILD_INDEX
            index = IndexBuild(
                build["name"], build["table"], bool(build["unique"]), build["rest"].strip()
            )
        elif _DROP_INDEX.fullmatch(statement):
            kind = Kind.DROP_INDEX
        else:
            raise SchemaError(
                f"The migration {file} works on an index concurrently, so it may have only that "
                "statement: CREATE [UNIQUE] INDEX CONCURRENTLY name ON table …; or DROP INDEX "
                "CONCURRENTLY name;"
            )
    return Migration(version, name, sql, hashlib.sha256(content).digest(), kind, index)
