"""Owns `authsvc migrate`: migrates the database to this version's schema."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    duration_of,
    emit,
    run,
    settings_of,
)
from authsvc.store.postgres import migrator
from authsvc.store.postgres.migrator import MigrationStatus
from authsvc.store.postgres.timeouts import Timeouts


def migrate(
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list applied and pending migrations.")
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option(
            help="How long to wait for a database that can't be reached yet, such as 4m.",
            show_default=False,
        ),
    ] = None,
    skip_versions: Annotated[
        bool,
        typer.Option(
            "--skip-versions",
            help="Migrate from an older version than the one before; no replica may be running.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Migrate the database to this version's schema.

    Safe to repeat, to run several times at once, and while the version before is serving. `authsvc
    upgrade check` says in advance what it will do.
    """
    patience = duration_of(wait, "--wait")
    database = settings_of(config, secrets).database
    url = (database.listener_url or database.url).get_secret_value()
    # Half as long as calls, so that none of them fails for it.
    seconds = database.lock_timeout.total_seconds() / 2
    if patience is not None:
        run(partial(migrator.wait_for_database, url, patience, say=_say))
    work = partial(
        migrator.migrate, url, lock_seconds=seconds, skip_versions=skip_versions, say=_say
    )
    applied = [] if dry_run else run(work)
    rows = [
        {
            "version": status.version,
            "name": status.name,
            "state": _state(status, applied),
            "applied": status.apply_time,
        }
        for status in run(lambda: migrator.pending(url, Timeouts.of(database)))
    ]
    emit(rows, as_json=as_json, title="Migrations")


def _state(status: MigrationStatus, applied: Sequence[int]) -> str:
    if status.version in applied:
        return "applied now"
    return "pending" if status.apply_time is None else "applied before"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
