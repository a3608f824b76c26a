"""Owns the loading of settings, and the problems reported for invalid ones.

Later sources override earlier ones: defaults, a TOML file, environment variables
(`AUTHSVC_TOKENS__ISSUER`), files in a secrets folder (`database__url`). Unknown keys are rejected,
except files of the secrets folder that name no section.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from authsvc.config import sources
from authsvc.config.settings import Settings
from authsvc.config.sources import Source
from authsvc.config.types import Section


class ConfigError(Exception):
    """The settings are invalid; `problems` has a line for each problem, without values."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and `notes` on where they came from: sentences for the operator."""

    settings: Settings
    notes: Sequence[str]


def load(file: Path | None = None, *, secrets_dir: Path | None = None) -> Settings:
    """Return the settings from `file`, the environment and `secrets_dir`.

    `file` and `secrets_dir` default to AUTHSVC_CONFIG and AUTHSVC_SECRETS_DIR, if set.

    Raises:
        ConfigError: A source can't be read, a key is unknown, or a value is invalid.
    """
    return load_with_notes(file, secrets_dir=secrets_dir).settings


def load_with_notes(file: Path | None = None, *, secrets_dir: Path | None = None) -> Loaded:
    """Return the settings, as `load` does, and what is remarkable about their sources."""
    file = file or _path("AUTHSVC_CONFIG")
    secrets_dir = secrets_dir or _path("AUTHSVC_SECRETS_DIR")
    from_file = sources.read_file(file) if file else Source()
    environment = sources.read_environment(os.environ)
    secrets = sources.read_folder(secrets_dir) if secrets_dir else Source()
    found = (from_file, environment, secrets)
    problems = [problem for source in found for problem in source.problems]
    if problems:
        raise ConfigError(problems)
    values: sources.Table = {}
    for source in found:
        values = sources.merge(values, source.values)
    notes = [note for source in found for note in source.notes]
    try:
        settings = validate(values)
    except ConfigError as error:
        # A file whose name is misspelt is why a setting is missing.
        raise ConfigError([*error.problems, *notes]) from None
    notes += sources.overridden(environment, secrets)
    return Loaded(settings, notes)


def validate(values: sources.Table) -> Settings:
    """Return the settings that `values`, in the form of JSON, stand for.

    Raises:
        ConfigError: A key is unknown, or a value is invalid.
    """
    try:
        # As JSON, and strictly: a text is no number. So the JSON Schema can say what is accepted.
        return Settings.model_validate_json(json.dumps(_whole(values)), strict=True)
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def _path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _whole(value: Any) -> Any:
    """Return a value in which whole numbers such as 5.0 are integers, as JSON Schema sees them."""
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _problems(error: ValidationError) -> list[str]:
    items = error.errors()
    # A list whose only entry is invalid counts as empty, too.
    inner = {item["loc"][:length] for item in items for length in range(len(item["loc"]))}
    return [
        _problem(item) for item in items if item["type"] != "too_short" or item["loc"] not in inner
    ]


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "settings"
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{key}: no such setting"
    if kind == "missing":
        return f"{key}: missing, and it has no default"
    if kind == "too_short":
        return f"{key}: expected at least {item['ctx']['min_length']}"
    message = item["msg"].removeprefix("Value error, ")
    given = item["input"]
    if kind == "value_error" and isinstance(given, dict | Section | SecretStr):
        return f"{key}: {message}"
    return f"{key}: got {_kind(given)}: {message[0].lower()}{message[1:]}"


def _kind(value: object) -> str:
    # Only the type: the value may be a misplaced secret.
    names = {str: "a string", bool: "a boolean", int: "an integer", float: "a number"}
    names |= {dict: "a table", list: "a list", tuple: "a list", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
