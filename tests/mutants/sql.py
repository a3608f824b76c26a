"""Owns the reading of the list of SQL mutants: changes to statements, and to database functions.

A table of the list names a `file`, and in it the `constant` that holds the statement or the
`function` that a migration makes. `drop` lists conditions, each of which is taken for true; `swap`
lists pairs of a text and what it becomes. A text stands exactly once where it is changed. The tests
that judge the change are those that run a Python function that uses the constant; for a function of
the database those that run any function of the file `used_by`.
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants.mutant import Key, Mutant, module_of
from tests.mutants.names import Names


class ListError(Exception):
    """The list does not fit the code; the message says where."""


def sql_mutants(root: Path, path: str, names: Names) -> list[Mutant]:
    """Return the mutants of a list, in its order."""
    tables: list[dict[str, Any]] = tomllib.loads((root / path).read_text())["statement"]
    seen: Counter[tuple[str, ...]] = Counter()
    mutants = []
    for table in tables:
        file = table["file"]
        name = table["constant"] if "constant" in table else table["function"]
        source = (root / file).read_text()
        if "constant" in table:
            start, end = _constant(source, name, file)
            reach = names.users(file, name)
        else:
            start, end = _function(source, name, file)
            reach = names.functions(table["used_by"])
        for before, after in _changes(table):
            text = source[start:end]
            if text.count(before) != 1:
                raise ListError(f"{file}, {name}: {text.count(before)} times {before!r}, not once.")
            place = start + text.index(before)
            seen[file, name, before, after] += 1
            key = Key(module_of(file), name, "sql", before, after, seen[file, name, before, after])
            mutated = source[:place] + after + source[place + len(before) :]
            mutants.append(Mutant(key, file, source.count("\n", 0, place) + 1, mutated, reach))
    return mutants


def _changes(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for condition in table.get("drop", ()):
        yield condition, f"({condition} OR true)"
    yield from table.get("swap", ())


def _constant(source: str, name: str, file: str) -> tuple[int, int]:
    """Return where the text of a constant begins and ends."""
    lines = source.splitlines(keepends=True)
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(target)]) if target == name:
                before = sum(len(line) for line in lines[: statement.lineno - 1])
                length = len("".join(lines[statement.lineno - 1 : statement.end_lineno]))
                return before, before + length
    raise ListError(f"{file} has no constant {name}.")


def _function(source: str, name: str, file: str) -> tuple[int, int]:
    """Return where the definition of a function of the database begins and ends."""
    made = re.compile(rf"CREATE (OR REPLACE )?FUNCTION {name}\b.*?\$\$.*?\$\$;", re.DOTALL)
    match = made.search(source)
    if match is None:
        raise ListError(f"{file} makes no function {name}.")
    return match.span()
