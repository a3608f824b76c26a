"""Owns `authsvc migrate`: brings the database's schema to this version's."""

from typing import Annotated

import typer

from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit, run, settings_of
from authsvc.store.postgres import migrator


def migrate(
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what there is and what is missing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the database to this version's schema.

    Safe to run again, by several at once, and while the previous version is serving.
    """
    settings = settings_of(config, secrets)
    url = (settings.database.listener_url or settings.database.url).get_secret_value()
    applied = [] if dry_run else run(lambda: migrator.migrate(url))
    rows = [
        {
            "version": status.version,
            "name": status.name,
            "applied": status.apply_time,
            "now": status.version in applied,
        }
        for status in run(lambda: migrator.pending(url))
    ]
    emit(rows, as_json=as_json, title="Migrations")
