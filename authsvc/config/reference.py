"""Owns the reference of the settings: each key with its type, default and meaning."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from authsvc.config import durations
from authsvc.config.limits import PolicySettings
from authsvc.config.schema import Schema, resolve, settings_schema
from authsvc.config.settings import Settings

# How to write tables whose keys the operator chooses.
_CHOSEN = {"rate_limits.policies": "NAME", "oauth.providers": "NAME", "permissions": "ROLE"}
_POLICY = f"#/$defs/{PolicySettings.__name__}"


class Row(NamedTuple):
    """One key: how a page writes it, its type, its default, and what it means.

    `value` is the default as JSON, and None without one.
    """

    key: str
    kind: str
    default: str
    meaning: str
    value: Any


def rows() -> Iterator[Row]:
    """Yield a row for each key that can be set, in the order of the settings."""
    yield from _of_table(settings_schema(), "")


def _of_table(table: Schema, prefix: str) -> Iterator[Row]:
    required = table.get("required", ())
    for name, value in table["properties"].items():
        yield from _of_key(value, f"{prefix}{name}", required=name in required)


def _of_key(value: Schema, key: str, *, required: bool) -> Iterator[Row]:
    plain = _without_null(value)
    for marker, part in _parts(plain, key):
        if "properties" in (table := resolve(part)):
            yield from _of_table(table, f"{key}{marker}.")
            return
    meaning = value["description"]
    if key in _CHOSEN:
        (plain,) = plain["patternProperties"].values()
        shipped = Settings.model_fields[key].get_default(call_default_factory=True)
        default = "; ".join(f"`{name}`: {_listed(values)}" for name, values in shipped.items())
        example = next(iter(shipped.values()))
        yield Row(f"{key}.{_CHOSEN[key]}", _kind(plain), default, meaning, example)
        return
    default = "required" if required else _default(plain, value)
    yield Row(key, _kind(plain), default, meaning, value.get("default"))


def _without_null(value: Schema) -> Schema:
    choices = [choice for choice in value.get("anyOf", ()) if choice.get("type") != "null"]
    return choices[0] if choices else value


def _parts(value: Schema, key: str) -> Iterator[tuple[str, Schema]]:
    """Yield the types that may be tables of their own, and how keys continue into them."""
    if value.get("$ref") != _POLICY:
        yield "", value
    yield "[]", value.get("items", {})
    for choice in value.get("patternProperties", {}).values():
        yield f".{_CHOSEN[key]}", choice


_KINDS = {"boolean": "true or false", "password": "secret", "path": "path"}


def _kind(value: Schema) -> str:
    match value:
        case {"$ref": str(name)} if name == _POLICY:
            kind = "policy"
        case {"$ref": str()}:
            kind = _kind(resolve(value))
        case {"enum": choices}:
            kind = " or ".join(f"`{choice}`" for choice in choices)
        case {"type": "integer" | "number", "minimum": least, **rest}:
            kind = f"{least} to {rest['maximum']}" if "maximum" in rest else f"{least} or more"
        case {"type": "array", "items": items}:
            kind = f"list of {_kind(items)}"
        case {"type": "object", "additionalProperties": items}:
            kind = f"table of {_kind(items)}"
        case {"x-least": least, "x-most": most}:
            kind = _duration_between(least, most)
        case _:
            kind = _KINDS.get(value.get("format", value["type"]), "text")
    return kind


def _duration_between(least: str, most: str) -> str:
    if most != durations.LONGEST:
        return f"duration, {least} to {most}"
    return "duration" if least == "0s" else f"duration, {least} or more"


def _default(plain: Schema, value: Schema) -> str:
    default = value.get("default")
    if default is None or default in ("", [], {}):
        return "none"
    if plain.get("$ref") == _POLICY:
        return f"{default['requests']} in {default['window']}"
    if "x-least" in plain:
        return str(default)
    if isinstance(default, bool):
        return str(default).lower()
    return _listed(default) if isinstance(default, list) else _plain(default)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(_plain(value) for value in values)


def _plain(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) else str(value)
