"""Owns the sources of settings: a TOML file, environment variables, and a secrets folder.

Each is read into plain values in the form of JSON, of which nothing is checked here but that they
can be read, and that variables and files are named after a setting.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from authsvc.config.schema import Schema, find
from authsvc.config.settings import Settings

PREFIX = "AUTHSVC_"
# Variables with this prefix that are not settings: they say where settings are, or are for tests.
NOT_SETTINGS = frozenset({"AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR", "AUTHSVC_TEST_DATABASE"})

# What Kubernetes sets in every pod for a Service whose name begins with "authsvc".
_KUBERNETES = (
    (r"(\w+_)?SERVICE_HOST", r"[0-9A-Fa-f.:]+"),
    (r"(\w+_)?SERVICE_PORT(_\w+)?", r"[0-9]+"),
    (r"(\w+_)?PORT", r"(tcp|udp|sctp)://.*"),
    (r"(\w+_)?PORT_[0-9]+_(TCP|UDP|SCTP)", r"(tcp|udp|sctp)://.*"),
    (r"(\w+_)?PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)", r"[0-9A-Za-z.:]+"),
)
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

Table: TypeAlias = dict[str, Any]
Keys: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class Source:
    """What a source has: `values`, from where each key is, and sentences for the operator.

    `problems` make the settings invalid, `notes` don't. Neither contains a value.
    """

    values: Table = field(default_factory=dict)
    places: dict[Keys, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, keys: Keys, place: str, text: str, schema: Schema) -> None:
        """Add the value of a key, of which `place` has the text."""
        try:
            value = _decode(text, schema)
            # Half a character, from bytes that are not UTF-8 or from an escape of JSON.
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            self.problems.append(f"{place}: not text in UTF-8")
            return
        except ValueError as error:
            self.problems.append(f"{place}: {error}")
            return
        for name in reversed(keys):
            value = {name: value}
        self.values = merge(self.values, value)
        self.places |= dict.fromkeys(_leaves(value), place)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Return both tables as one, in which the values of `over` take precedence."""
    merged = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def read_file(path: Path) -> Source:
    """Read a TOML file, in UTF-8 with or without a byte-order mark."""
    source = Source()
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        source.problems.append(f"settings file {path}: {error.strerror}")
    except UnicodeDecodeError:
        source.problems.append(f"settings file {path}: not TOML: not text in UTF-8")
    except (ValueError, RecursionError) as error:
        # Not only TOMLDecodeError: numbers may be too long, and tables nested too deeply.
        source.problems.append(f"settings file {path}: not TOML: {error}")
    else:
        source.values = values
        source.problems += [
            f"{'.'.join(keys)}: got a date or time: write it as text, in quotes"
            for keys in _not_json(values)
        ]
    return source


def read_environment(variables: Mapping[str, str]) -> Source:
    """Read the environment variables that name a setting, such as AUTHSVC_TOKENS__ISSUER."""
    source = Source()
    found = []
    for name, value in sorted(variables.items()):
        if (
            not name.upper().startswith(PREFIX)
            or name in NOT_SETTINGS
            or _is_kubernetes(name, value)
        ):
            continue
        keys = tuple(name[len(PREFIX) :].lower().split("__"))
        schema = find(keys)
        if schema is None:
            source.problems.append(f"environment variable {name}: no such setting")
        else:
            found.append((keys, name, _bare(value), schema))
    # A key of a table takes precedence over the table as a whole.
    for keys, name, text, schema in sorted(found, key=lambda each: len(each[0])):
        place = f"environment variable {name}"
        if _is_quoted(text) and schema.get("format") == "password":
            source.notes.append(f"{place}: its quotes are taken as part of the value")
        elif _is_quoted(text):
            # Left over from an env file: Docker keeps them.
            text = text[1:-1]  # noqa: PLW2901 - the same value, without its quotes
        source.add(keys, place, text, schema)
    return source


def read_folder(folder: Path) -> Source:
    """Read the files of a secrets folder that name a section; the others are noted."""
    source = Source()
    if not folder.is_dir():
        source.problems.append(f"secrets folder {folder}: no such folder")
        return source
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        source.problems.append(f"secrets folder {folder}: {error.strerror}")
        return source
    for file in files:
        keys = tuple(file.name.lower().split("__"))
        if keys[0] not in Settings.model_fields or not file.is_file():
            source.notes.append(f"secrets folder {folder}: {file.name} names no setting; ignored")
            continue
        schema = find(keys)
        if schema is None:
            source.problems.append(f"{'.'.join(keys)}: no such setting")
            continue
        try:
            text = _bare(file.read_text(encoding="utf-8"))
        except OSError as error:
            source.problems.append(f"secrets file {file}: {error.strerror}")
        except UnicodeDecodeError:
            # Without the cause, which quotes the secret.
            source.problems.append(f"secrets file {file}: not text in UTF-8")
        else:
            source.add(keys, f"secrets file {file}", text, schema)
    return source


def overridden(weaker: Source, stronger: Source) -> list[str]:
    """Return a sentence for each place of `weaker` of which `stronger` overrides a value."""
    pairs = {
        (place, stronger.places[keys])
        for keys, place in weaker.places.items()
        if keys in stronger.places
    }
    return [f"{place} is overridden by {other}" for place, other in sorted(pairs)]


def _bare(text: str) -> str:
    """Return a value without the byte-order mark, the blanks and the line ends around it."""
    return text.strip().strip("\ufeff").strip()


def _decode(text: str, schema: Schema) -> Any:
    """Return the value that a text stands for; a text of another type is left to the check."""
    kind = schema.get("type", "string")
    if kind == "integer" and re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?", text):
        return float(text)
    if kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    if kind not in {"array", "object"}:
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Its message has no part of the text.
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON, which lists and tables are: {error.msg}, {where}") from None
    except RecursionError:
        raise ValueError("not JSON, which lists and tables are: nested too deeply") from None


def _leaves(value: Mapping[str, Any], before: Keys = ()) -> Iterator[Keys]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, (*before, name))
        else:
            yield (*before, name)


def _not_json(value: Any, before: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of dates and times, which only TOML has."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_json(inner, (*before, name))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _not_json(inner, (*before, str(at)))
    elif not isinstance(value, bool | int | float | str):
        yield before


def _is_kubernetes(name: str, value: str) -> bool:
    return name.startswith(PREFIX) and any(
        re.fullmatch(pattern, name.removeprefix(PREFIX)) and re.fullmatch(form, value)
        for pattern, form in _KUBERNETES
    )


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
