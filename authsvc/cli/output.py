"""Owns the output of commands: tables or JSON on standard output, errors on standard error."""

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import asyncpg
import typer
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from authsvc.config import ConfigError, Loaded, Settings, durations, load_with_notes
from authsvc.core.lib.sealing import SealError
from authsvc.errors import ServerError, ServiceError
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrator import SchemaError

DEVELOPMENT = Path(".authsvc")
# The width of tables in a pipe; more than any table needs.
_UNBOUNDED = 10_000

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
LimitOption = Annotated[
    int, typer.Option("--limit", min=1, max=1_000, help="The most to list at once.")
]


def duration_of(text: str | None, option: str) -> timedelta | None:
    """Return the duration in an option's value, or end the command."""
    if text is None:
        return None
    try:
        return durations.parse(text)
    except ValueError as error:
        fail(f"{option}: {error}")


def fail(*problems: str) -> NoReturn:
    """End the command with exit code 1 and a line for each problem."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1)


def sources_of(config: Path | None, secrets: Path | None) -> tuple[Path | None, Path | None]:
    """Return the settings file and the secrets folder to use.

    Without any arguments, they are those of `authsvc dev` if it has run in this folder.
    """
    if config is None and secrets is None and (DEVELOPMENT / "config.toml").exists():
        return DEVELOPMENT / "config.toml", DEVELOPMENT / "secrets"
    return config, secrets


def settings_of(config: Path | None, secrets: Path | None) -> Settings:
    """Return the settings for a command, or end it with the problems found in them.

    They come from `sources_of`. If there is no settings file, the problems say where it was looked
    for.
    """
    return loaded_from(config, secrets).settings


def loaded_from(config: Path | None, secrets: Path | None) -> Loaded:
    """Return what `settings_of` returns, with notes on where it came from."""
    config, secrets = sources_of(config, secrets)
    try:
        return load_with_notes(config, secrets_dir=secrets)
    except ConfigError as error:
        fail(*error.problems, *([] if config else [_no_file(secrets)]))


def _no_file(secrets: Path | None) -> str:
    why = "no settings file was read: neither --config nor AUTHSVC_CONFIG is set"
    if secrets is None:
        why += f", and {(DEVELOPMENT / 'config.toml').absolute()} does not exist"
    return f"{why}; `authsvc config example` shows all settings"


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
    except BrokenPipeError:
        # Whoever reads the output has had enough: typer ends the command without a word.
        raise
    except OSError as error:
        fail(str(error) or type(error).__name__)


def follow(work: Callable[[], Awaitable[None]]) -> None:
    """Run work that goes on until somebody presses Ctrl-C, which is a success."""
    try:
        run(work)
    except KeyboardInterrupt:
        raise typer.Exit from None


def emit(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str, empty: str = "none"
) -> None:
    """Print rows, which all have the same keys, as JSON or as a table.

    If the table is wider than the terminal, each value has a line of its own instead, so that ids
    and addresses stay whole and can be copied.
    """
    if as_json:
        print(to_json([dict(row) for row in rows], indent=2))
        return
    if not rows:
        print(f"{title}: {empty}")
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in rows[0]:
        table.add_column(_label(name), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    wide = Console(width=_UNBOUNDED)
    # Without a terminal, as in a pipe, there is no width to keep within.
    if not sys.stdout.isatty() or wide.measure(table).maximum <= Console().width:
        wide.print(table)
        return
    print(title)
    for row in rows:
        print()
        emit_one(row, as_json=False)


def emit_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one row as JSON, or a line for each of its values, with its name."""
    if as_json:
        print(to_json(row, indent=2))
        return
    width = max(map(len, row))
    for name, value in row.items():
        print(f"  {_label(name):{width}}  {_cell(value)}")


def emit_page(
    rows: Sequence[Mapping[str, Any]], limit: int, *, as_json: bool, title: str, key: str
) -> None:
    """Print up to `limit` rows; if there are more, say how to list those after the last one.

    `rows` are up to `limit` + 1, and `key` is the name of the column that identifies one.
    """
    page = rows[:limit]
    emit(page, as_json=as_json, title=title)
    if len(rows) > limit:
        print(f"There are more: add --after {page[-1][key]}", file=sys.stderr)


def to_json(value: object, indent: int | None = None) -> str:
    """Return rows, or one row, as JSON: times as in RFC 3339, and durations in seconds."""
    return json.dumps(value, default=_plain, indent=indent)


def plain_text(text: str) -> str:
    """Return text with its control characters escaped, so that it can't steer the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _label(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: object) -> str | float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return plain_text(str(value)) or "-"
