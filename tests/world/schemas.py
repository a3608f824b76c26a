"""Owns the check of Kubernetes objects against the schemas of the cluster that they are for.

Kubernetes' own kinds are checked for each version of Kubernetes; what others have defined, such as
Certificate, is checked against their CRDs, which `crds.py` installs. Both are strict: a field that
nobody knows is an error.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, TypeAlias

import jsonschema
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

from tests.world.crds import CRDS, EXAMPLES

# The oldest that the chart installs on, one between, and the newest that there are schemas for.
VERSIONS = ("1.31", "1.34", "1.37")

Object: TypeAlias = Mapping[str, Any]


class SchemaViolation(Exception):
    """An object doesn't match its schema, or no schema has its kind; the message says where."""


def validate(document: Object, version: str = VERSIONS[-1]) -> None:
    """Check an object of Kubernetes; raises SchemaViolation."""
    kind, api = document["kind"], document["apiVersion"]
    name = document.get("metadata", {}).get("name")
    validator = _custom(kind, api) or _builtin(kind, api, version)
    problem = best_match(validator.iter_errors(document))
    if problem is not None:
        raise SchemaViolation(f"{kind} {name}, {problem.json_path}: {problem.message}")


@cache
def _builtin(kind: str, api: str, version: str) -> jsonschema.Draft202012Validator:
    # rbac.authorization.k8s.io/v1 is in the file of rbac-v1.
    file = (
        _folder(version)
        / f"{kind.lower()}-{re.sub(r'[.][^/]*(?=/)', '', api).replace('/', '-')}.json"
    )
    if not file.is_file():
        raise SchemaViolation(f"Kubernetes {version} has no {kind} of {api}")
    return jsonschema.Draft202012Validator(
        json.loads(file.read_text()), registry=_definitions(version)
    )


@cache
def _definitions(version: str) -> Registry[Any]:
    file = _folder(version) / "_definitions.json"
    found: Registry[Any] = Resource.from_contents(json.loads(file.read_text())) @ Registry()
    return found


def _folder(version: str) -> Traversable:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return folder / f"v{version}.0-local-strict"


@cache
def _custom(kind: str, api: str) -> jsonschema.Draft202012Validator | None:
    for crds in (*CRDS, *EXAMPLES):
        schema = crds.find(kind, api)
        if schema is not None:
            return jsonschema.Draft202012Validator(_whole(schema))
    return None


def _whole(schema: Object) -> Object:
    """Return the JSON Schema of a kind, whose apiVersion, kind and metadata every object has."""
    made = _strict(schema)
    made["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return made


def _strict(schema: Object) -> dict[str, Any]:
    """Return the JSON Schema of a structural schema, in which unknown fields are errors."""
    made = {key: value for key, value in schema.items() if key not in {"format", "default"}}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
    if "properties" in schema:
        made["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            made[key] = _strict(schema[key])
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made
