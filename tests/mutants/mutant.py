"""Owns what a mutant is: one small change to one file, and a name that outlives shifted lines."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Lines = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Key:
    """Identifies a mutant by what it changes, not by where that stands.

    `ordinal` tells apart equal changes within one function, counted from 1.
    """

    module: str
    function: str
    operator: str
    before: str
    after: str
    ordinal: int = 1

    @cached_property
    def id(self) -> str:
        """A short name for the command line."""
        parts = (self.module, self.function, self.operator, self.before, self.after)
        text = "\0".join((*parts, str(self.ordinal)))
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Mutant:
    """A change to the file `path`, which is `source` once it is made.

    `reach` are the lines, by file, of which a test has to run at least one to notice the change.
    """

    key: Key
    path: str
    line: int
    source: str = field(repr=False)
    reach: Lines = field(repr=False)

    @property
    def id(self) -> str:
        """A short name for the command line."""
        return self.key.id

    @property
    def is_sql(self) -> bool:
        """Whether it changes a statement or a function of the database."""
        return self.key.operator == "sql"

    @property
    def place(self) -> str:
        """Where it is, for a reader."""
        return f"{self.path}:{self.line} {self.key.function}".rstrip()


def module_of(path: str) -> str:
    """Return what a file is called in keys and reports: `core/sessions/refresh`."""
    return path.removeprefix("authsvc/").removesuffix(".py")
