"""Owns `authsvc config`: checks, shows and describes the settings."""

import io
import json
import sys
from typing import Annotated

import typer

from authsvc import log as logs
from authsvc.cli.config_check import check_deeply, check_files
from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, fail, loaded_from, run
from authsvc.config import LogSettings
from authsvc.config.schema import settings_schema
from authsvc.config.text import example_text, settings_text

app = Commands(help="Check, show and describe the settings.")


@app.command()
def check(
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also use what the settings name: certificates, addresses, the database, the mail"
            " server or webhook, and the providers.",
        ),
    ] = False,
) -> None:
    """Check the settings; if they are invalid, print a line per problem and exit with code 1."""
    loaded = loaded_from(config, secrets)
    settings = loaded.settings
    for note in (*loaded.notes, *settings.database.notes, *settings.tokens.notes):
        print(f"note: {note}", file=sys.stderr)
    problems = check_files(loaded.settings)
    if problems:
        fail(*problems)
    if deep:
        # The causes of some failures are told in the log alone, from where they are taken.
        logs.configure(LogSettings(level="warning"), io.StringIO())
        findings = run(lambda: check_deeply(loaded.settings))
        for finding in findings:
            if finding.problem is None:
                print(f"ok: {finding.name}{finding.detail and ': '}{finding.detail}")
        problems = [f"{each.name}: {each.problem}" for each in findings if each.problem]
        if problems:
            fail(*problems)
    print("The settings are valid.")


@app.command()
def show(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Print all settings in effect as TOML, including defaults, with secrets masked."""
    settings = loaded_from(config, secrets).settings
    if as_json:
        print(json.dumps(settings.model_dump(mode="json"), indent=2))
    else:
        print(settings_text(settings), end="")


@app.command()
def example() -> None:
    """Print a settings file with every setting, its meaning and its default, as comments."""
    print(example_text(), end="")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings: names, types, defaults and bounds."""
    print(json.dumps(settings_schema(), indent=2))
