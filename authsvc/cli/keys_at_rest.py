"""Owns the `authsvc keys` commands for keyring keys and peppers: generate, status and reseal."""

import base64
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from authsvc.cli.calls import cli_call
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    emit,
    emit_one,
    fail,
    settings_of,
    to_json,
)
from authsvc.cli.work import with_use_cases
from authsvc.config import Settings
from authsvc.config.durations import text as duration_text
from authsvc.core.accounts.registration_tokens import REGISTRATION_LIFETIME
from authsvc.core.secrets_at_rest.key_usage import KeyReport, Usage
from authsvc.core.use_cases import UseCases

_KEY_BYTES = 32
_ID = re.compile("[a-z0-9][a-z0-9_-]{0,31}")
# Without a terminal, progress is one line per this many values.
_VALUES_PER_LINE = 10_000
_SOME_LEFT = 3


def generate(
    key_id: Annotated[
        str,
        typer.Option("--id", help="The key's id; today's date by default.", show_default=False),
    ] = "",
) -> None:
    """Print a new random key as an entry of secrets.keyring or secrets.peppers.

    Add it as the second entry everywhere before you make it the first. It is secret: send the
    output to a file that only you can read.
    """
    key_id = key_id or f"{datetime.now(UTC):%Y-%m-%d}"
    if not _ID.fullmatch(key_id):
        fail(f'--id: "{key_id}" is not an id such as key-1, of at most 32 characters')
    key = base64.b64encode(os.urandom(_KEY_BYTES)).decode()
    print(to_json({"id": key_id, "key": key}))


def status(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Show what each key of the keyring and each pepper still protects.

    newest: used for everything new. older: only for what is listed. missing: not in the settings,
    so these values can't be read. none: made without a key, or before keys were recorded.
    """
    settings = settings_of(config, secrets)
    report = with_use_cases(config, secrets, lambda use: use.key_usage.report())
    wait = duration_text(_longest(settings))
    if as_json:
        summary = {
            "keys": [_row(usage) for usage in report.keys],
            "peppers": [_row(usage) for usage in report.peppers],
            "removable_keys": list(report.removable_keys),
            "removable_peppers": list(report.removable_peppers),
            "keep_older_keys_for": wait,
        }
        emit_one(summary, as_json=True)
        return
    emit([_row(usage) for usage in report.keys], as_json=False, title="Keyring")
    print()
    emit([_row(usage) for usage in report.peppers], as_json=False, title="Peppers")
    print()
    for line in _advice(report, settings, wait):
        print(line)


def reseal(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be resealed, but change nothing.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=5_000, help="Values in one transaction.")
    ] = 200,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal everything that is stored under older keys under the newest one.

    The service keeps running meanwhile. Interrupted, the command goes on where it stopped when it
    is run again. Exit code 3: some values are still under older keys; the output says which.
    """

    async def work(use: UseCases) -> Sequence[dict[str, Any]]:
        due = await use.resealing.count()
        if dry_run:
            return [{"column": str(column), "due": count} for column, count in due.items()]
        with _progress(due.total()) as progress:
            counts = await use.resealing.run(cli_call(), batch_size=batch_size, progress=progress)
        left = await use.resealing.count()
        return [
            {
                "column": str(column),
                "resealed": counts.resealed[column],
                "left": left[column],
                "unreadable": sum(
                    count for (where, _), count in counts.unreadable.items() if where == column
                ),
                "missing_keys": sorted(
                    key_id or "unknown" for where, key_id in counts.unreadable if where == column
                ),
            }
            for column in due
        ]

    rows = with_use_cases(config, secrets, work)
    emit(rows, as_json=as_json, title="To be resealed" if dry_run else "Resealed")
    for row in rows:
        if row.get("missing_keys"):
            print(
                f"error: {row['column']}: values that can't be opened: {row['unreadable']}; keys"
                f" that secrets.keyring lacks: {', '.join(row['missing_keys'])}",
                file=sys.stderr,
            )
    if any(row.get("left") for row in rows):
        raise typer.Exit(_SOME_LEFT)


def _row(usage: Usage) -> dict[str, Any]:
    return {
        "column": usage.column,
        "key": usage.key_id or None,
        "algorithm": usage.algorithm or None,
        "state": usage.state.value,
        "values": usage.count,
        "percent": usage.percent,
    }


def _advice(report: KeyReport, settings: Settings, wait: str) -> Iterator[str]:
    older_keys = [key.id for key in settings.secrets.keyring[1:]]
    older_peppers = [pepper.id for pepper in settings.secrets.peppers[1:]]
    for name, older, removable in (
        ("secrets.keyring", older_keys, report.removable_keys),
        ("secrets.peppers", older_peppers, report.removable_peppers),
    ):
        for key_id in older:
            if key_id not in removable:
                yield f"{name}: {key_id} is still needed."
            elif name == "secrets.peppers":
                yield (
                    f"{name}: {key_id} protects nothing. Remove it, unless it is new and is still"
                    " to become the first."
                )
            else:
                yield (
                    f"{name}: {key_id} protects nothing stored. Remove it {wait} after another key"
                    " has become the first: until then, tokens and codes made with it are valid."
                )


def _longest(settings: Settings) -> timedelta:
    """Return how long tokens and codes made with a key of the keyring may be valid."""
    return max(
        settings.tokens.refresh_lifetime,
        settings.codes.verification_lifetime,
        REGISTRATION_LIFETIME,
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, otherwise an occasional line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("resealing", total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._next = _VALUES_PER_LINE

    def advance(self, count: int) -> None:
        """Record that more values were processed."""
        self._done += count
        if self._done >= self._next:
            self._next = self._done + _VALUES_PER_LINE
            print(f"{self._done} of {self._total} values", file=sys.stderr)
