"""Owns the JSON Schema of the settings: it accepts exactly the values that the loader accepts.

Only what relates one key to another is beyond it, such as `api_keys.policy`, which has to be one of
`rate_limits.policies`.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from authsvc.config import durations
from authsvc.config.settings import Settings

Schema = Mapping[str, Any]


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return durations.text(dft) if isinstance(dft, timedelta) else super().encode_default(dft)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        names = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        if "patternProperties" in made:
            made["additionalProperties"] = False
        if "not" in names:
            made["propertyNames"] = {"not": names["not"]}
        return made


@cache
def settings_schema() -> Schema:
    """Return the JSON Schema of all settings."""
    return Settings.model_json_schema(schema_generator=_Generator)


def resolve(value: Schema) -> Schema:
    """Return the schema that a reference or an optional value stands for."""
    choices = [choice for choice in value.get("anyOf", ()) if choice.get("type") != "null"]
    if choices:
        return resolve(choices[0])
    if "$ref" in value:
        found: Schema = settings_schema()["$defs"][value["$ref"].rpartition("/")[2]]
        return found
    return value


def find(path: tuple[str, ...]) -> Schema | None:
    """Return the schema of the key that `path` leads to, or None if there is no such key."""
    found = settings_schema()
    for name in path:
        found = resolve(found)
        inner = found.get("properties", {}).get(name)
        others = [*found.get("patternProperties", {}).values(), found.get("additionalProperties")]
        inner = inner or next((choice for choice in others if choice), None)
        if inner is None:
            return None
        found = inner
    return resolve(found)
