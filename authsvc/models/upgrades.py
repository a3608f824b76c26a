"""Owns what is known of upgrades of the schema: what statements do, and what is in their way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Lock(StrEnum):
    """How a statement locks a table; the stronger, the later."""

    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

    @property
    def strength(self) -> int:
        """The place among the locks."""
        return list(Lock).index(self)

    @property
    def blocks_reads(self) -> bool:
        """Whether nobody can read the table meanwhile."""
        return self is Lock.ACCESS_EXCLUSIVE

    @property
    def blocks_writes(self) -> bool:
        """Whether nobody can write to the table meanwhile."""
        return self.strength >= Lock.SHARE.strength


class Work(StrEnum):
    """What a statement does with the rows of a table; the dearer, the later."""

    NONE = "none"
    SCAN = "scan"
    ROWS = "rows"
    INDEX = "index"
    REWRITE = "rewrite"


@dataclass(frozen=True, slots=True)
class TableEffect:
    """What a statement does to a table that was there before its migration."""

    lock: Lock
    work: Work


@dataclass(frozen=True, slots=True)
class StatementEffects:
    """A statement of a migration, and what it does to each table that was there before."""

    statement: str
    tables: Mapping[str, TableEffect]


@dataclass(frozen=True, slots=True)
class TableSize:
    """How many rows a table has, as PostgreSQL estimates, its bytes without indexes, and those."""

    rows: int
    bytes: int
    indexes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where migrations create: the schema, None if there is none, and whether the role may do so.

    `present` are tables that it has, and `of_others` those of them that the role may not change.
    """

    schema: str | None
    may_create: bool
    present: Sequence[str]
    of_others: Sequence[str]


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is in the way: it has been in a transaction for long."""

    pid: int
    application: str
    role: str
    duration: timedelta
    # Of those that an upgrade locks.
    tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class Connections:
    """The connections that have one application_name: how many, and from how many addresses."""

    application: str
    count: int
    addresses: int
