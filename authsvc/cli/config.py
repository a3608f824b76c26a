"""Owns `authsvc config`: checks, shows and describes the settings."""

import json
import sys
from typing import Any

from pydantic import BaseModel, SecretStr
from rich.console import Console

from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, fail, settings_of
from authsvc.config import ConfigError, Settings
from authsvc.core.lib.clock import SystemClock
from authsvc.outbound.transport import build_transport

app = Commands(help="Check, show and describe the settings.")


@app.command()
def check(config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Check the settings; if they are invalid, print a line per problem and exit with code 1."""
    settings = settings_of(config, secrets)
    try:
        build_transport(settings.delivery, SystemClock())
    except ConfigError as error:
        fail(*error.problems)
    for note in settings.database.notes:
        print(f"note: {note}", file=sys.stderr)
    print("The settings are valid.")


@app.command()
def show(
    config: ConfigOption = None, secrets: SecretsOption = None, as_json: JsonOption = False
) -> None:
    """Print all settings in effect, including defaults, with secrets masked."""
    values = _plain(settings_of(config, secrets))
    if as_json:
        print(json.dumps(values, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(values):
        console.print(line, markup=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings: names, types, defaults and bounds."""
    print(json.dumps(Settings.model_json_schema(), indent=2, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else _text(value)


def _text(value: Any) -> str:
    total = getattr(value, "total_seconds", None)
    return f"{total():g}s" if total else str(value)


def _lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += _lines(value, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} = {json.dumps(value)}")
    return lines
