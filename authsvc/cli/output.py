"""Owns the output of commands: tables or JSON on standard output, errors on standard error."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import asyncpg
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from authsvc.config import ConfigError, Loaded, Settings, load_with_notes
from authsvc.core.lib.sealing import SealError
from authsvc.errors import ServerError, ServiceError
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import SchemaError

DEVELOPMENT = Path(".authsvc")

Result = TypeVar("Result")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="AUTHSVC_CONFIG",
        help="The settings file (TOML). Without it, settings come from the environment.",
        show_default=False,
    ),
]
SecretsOption = Annotated[
    Path | None,
    typer.Option(
        "--secrets",
        envvar="AUTHSVC_SECRETS_DIR",
        help="A folder with one file per secret setting, such as database__url.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def fail(*problems: str) -> NoReturn:
    """End the command with exit code 1 and a line for each problem."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1)


def settings_of(config: Path | None, secrets: Path | None) -> Settings:
    """Return the settings for a command, or end it with the problems found in them.

    Without any arguments, the settings of `authsvc dev` are used if it has run in this folder.
    """
    return loaded_from(config, secrets).settings


def loaded_from(config: Path | None, secrets: Path | None) -> Loaded:
    """Return what `settings_of` returns, with notes on where it came from."""
    if config is None and secrets is None and (DEVELOPMENT / "config.toml").exists():
        config, secrets = DEVELOPMENT / "config.toml", DEVELOPMENT / "secrets"
    try:
        return load_with_notes(config, secrets_dir=secrets)
    except ConfigError as error:
        fail(*error.problems)


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run asynchronous work; print a failure that an operator can fix as one line."""

    async def main() -> Result:
        return await work()

    try:
        return uvloop.run(main())
    except ServiceError as error:
        if error.__cause__ is None:
            fail(error.message)
        fail(f"{error.message.removesuffix('.')}: {describe(error)}")
    except ConfigError as error:
        fail(*error.problems)
    except (ServerError, SchemaError, SealError) as error:
        fail(str(error))
    except asyncpg.PostgresError as error:
        fail(f"the database refused a statement: {describe(error)}")
    except OSError as error:
        fail(str(error) or type(error).__name__)


def emit(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str, empty: str = "none"
) -> None:
    """Print rows, which all have the same keys, as JSON or as a table."""
    if as_json:
        print(json.dumps([dict(row) for row in rows], default=_plain, indent=2))
        return
    if not rows:
        print(f"{title}: {empty}")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # Without a terminal, as in a pipe, lines are not folded.
    Console(width=None if sys.stdout.isatty() else 1_000).print(table)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
