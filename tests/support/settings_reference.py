"""Owns the expected contents of the settings reference: each key with its type and default."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from authsvc.config import PolicySettings, Settings

_DURATION = TypeAdapter(timedelta)
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_TYPES = {
    ("boolean", ""): "true or false",
    ("string", ""): "text",
    ("string", "duration"): "duration",
    ("string", "password"): "secret",
    ("string", "path"): "path",
}
# How to write tables whose keys the operator chooses.
_CHOSEN = {"rate_limits.policies": "NAME", "oauth.providers": "NAME", "permissions": "ROLE"}
_POLICY = f"#/$defs/{PolicySettings.__name__}"

Schema = Mapping[str, Any]


class Row(NamedTuple):
    """One key: how a page writes it, its type, and its default."""

    key: str
    kind: str
    default: str


def rows() -> list[Row]:
    """Return a row for each key that can be set, in the order of the settings."""
    schema = Settings.model_json_schema()
    return list(_of_table(schema, schema["$defs"], ""))


def _of_table(table: Schema, defs: Schema, prefix: str) -> Iterator[Row]:
    required = table.get("required", ())
    for name, value in table["properties"].items():
        yield from _of_key(value, defs, f"{prefix}{name}", required=name in required)


def _of_key(value: Schema, defs: Schema, key: str, *, required: bool) -> Iterator[Row]:
    plain = _without_null(value)
    for marker, part in _parts(plain, key):
        table = _table(part, defs)
        if table is not None:
            yield from _of_table(table, defs, f"{key}{marker}.")
            return
    if "patternProperties" in plain:
        (plain,) = plain["patternProperties"].values()
        shipped = Settings.model_fields[key].get_default(call_default_factory=True)
        default = "; ".join(f"`{name}`: {_listed(values)}" for name, values in shipped.items())
        yield Row(f"{key}.{_CHOSEN[key]}", _kind(plain, defs), default)
        return
    yield Row(key, _kind(plain, defs), "required" if required else _default(plain, value))


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


def _table(value: Schema, defs: Schema) -> Schema | None:
    found = defs.get(value.get("$ref", "").rpartition("/")[2], {})
    return found if "properties" in found else None


def _kind(value: Schema, defs: Schema) -> str:
    if value.get("$ref") == _POLICY:
        return "policy"
    plain = defs[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
    match plain:
        case {"enum": choices}:
            return " or ".join(f"`{choice}`" for choice in choices)
        case {"type": "integer"}:
            return _range(plain)
        case {"type": "array", "items": items}:
            return f"list of {_kind(items, defs)}"
        case {"type": "object", "additionalProperties": items}:
            return f"table of {_kind(items, defs)}"
    return _TYPES[plain["type"], plain.get("format", "")]


def _range(value: Schema) -> str:
    least, most = value["minimum"], value.get("maximum")
    return f"{least} or more" if most is None else f"{least} to {most}"


def _default(plain: Schema, value: Schema) -> str:
    default = value.get("default")
    if default is None or default in ("", [], {}):
        return "none"
    if plain.get("$ref") == _POLICY:
        return f"{default['requests']} in {_duration(default['window'])}"
    if plain.get("format") == "duration":
        return _duration(default)
    if isinstance(default, bool):
        return str(default).lower()
    return _listed(default) if isinstance(default, list) else _plain(default)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(_plain(value) for value in values)


def _plain(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) else str(value)


def _duration(text: str) -> str:
    """Return a duration in the largest unit that it is a whole number of."""
    milliseconds = _DURATION.validate_python(text) // timedelta(milliseconds=1)
    unit, length = next(one for one in _UNITS if milliseconds % one[1] == 0)
    return f"{milliseconds // length}{unit}"
