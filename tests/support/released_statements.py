"""The SQL of the last release, which later migrations must leave working.

    python -m tests.support.released_statements --write

records that of the code as it is now: run it, by `make baseline`, on the commit of a release.
"""

import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg

from authsvc import __version__, store

FILE = Path(__file__).parents[1] / "store" / "released_statements.json"
_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


class Released(NamedTuple):
    """The statements of a release, by the module and the constant that have them."""

    release: str
    statements: dict[str, str]


def statements_of_code() -> dict[str, str]:
    """Return the constants of this version's `store` that are statements."""
    found = {}
    for module in pkgutil.walk_packages(store.__path__, f"{store.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.isupper() and isinstance(value, str) and _STATEMENT.match(value):
                found[f"{module.name}.{name}"] = value
    return found


def read_released() -> Released:
    """Return the statements of the last release."""
    return Released(**json.loads(FILE.read_text()))


class Description(NamedTuple):
    """The types of a statement's parameters, and the names and types of its columns."""

    parameters: Sequence[str]
    columns: Sequence[tuple[str, str]]


async def describe(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str
) -> Description | str:
    """Return what the server makes of a statement, or why it refuses it."""
    try:
        prepared = await connection.prepare(statement)
    except asyncpg.PostgresError as error:
        return str(error).partition("\n")[0]
    return Description(
        [each.name for each in prepared.get_parameters()],
        [(each.name, each.type.name) for each in prepared.get_attributes()],
    )


def main() -> None:
    """Record the statements of the code as it is now."""
    if "--write" not in sys.argv:
        sys.exit("error: --write records this code's statements as those of the last release")
    released = Released(__version__, dict(sorted(statements_of_code().items())))
    FILE.write_text(json.dumps(released._asdict(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
