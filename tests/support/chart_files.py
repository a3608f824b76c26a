"""Owns the generated files of the chart: the schema of its values, and what it knows of settings.

`python -m tests.support.chart_files` fails if they differ from values.yaml and from the settings;
with `--write` it writes them. The schema has the settings under `config`, all but secrets, which
belong into a Secret; the chart's own values have the types of their defaults, and as descriptions
the comments above them.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from authsvc.app.reload import RELOADED
from authsvc.config.schema import resolve, settings_schema
from authsvc.config.telemetry import OTLP_PORT
from tests.support.documents import REPOSITORY

CHART = REPOSITORY / "deploy" / "chart"
PAGE = REPOSITORY / "docs" / "kubernetes.md"
_VALUES = CHART / "values.yaml"
_TABLE = re.compile(r"(?<=<!-- values -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
_LINE = re.compile(r"( *)(?:# ?(?P<comment>.*)|(?P<key>[A-Za-z]\w*):.*)")

Schema = dict[str, Any]

_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_NAMES: Schema = {"type": "array", "items": {"type": "string", "minLength": 1}}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
_OPEN: Schema = {"type": "object"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PORTS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1, "maximum": 65_535},
    "minItems": 1,
}
_SPREAD: Schema = {"enum": ["DoNotSchedule", "ScheduleAnyway", "off"]}
_QUANTITY: Schema = {"type": ["string", "integer", "null"], "pattern": "^[1-9][0-9]*m?$"}
_SHARE: Schema = {"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+%$"}
# What a default doesn't say: by the key's path, or its last name.
_KNOWN: Mapping[str, Schema] = {
    "selectorLabels": _TEXTS,
    "commonLabels": _TEXTS,
    "podLabels": _TEXTS,
    "podAnnotations": _TEXTS,
    "deploymentAnnotations": _TEXTS,
    "nodeSelector": _TEXTS,
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "resources": _OPEN,
    "podSecurityContext": _OPEN,
    "securityContext": _OPEN,
    "strategy": _OPEN,
    "startupProbe": _OPEN,
    "readinessProbe": _OPEN,
    "livenessProbe": _OPEN,
    "affinity": _OPEN,
    "behavior": _OPEN,
    "tlsConfig": _OPEN,
    "namespaceSelector": _OPEN,
    "pullSecrets": _NAMES,
    "hostnames": _NAMES,
    "dnsNames": _NAMES,
    "loadBalancerSourceRanges": _NAMES,
    "ports": _PORTS,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    # A label's value.
    "nameOverride": {"type": "string", "pattern": "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$"},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "migration.mode": {"enum": ["hook", "initContainer", "none"]},
    "migration.wait": {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"},
    # 0 removes the Job before Argo CD has seen that it succeeded.
    "migration.ttlSecondsAfterFinished": {"type": "integer", "minimum": 60},
    "terminationGracePeriodSeconds": {"type": ["integer", "null"], "minimum": 1},
    "preStopSeconds": {"type": "integer", "minimum": 1},
    "spread.hosts": _SPREAD,
    "spread.zones": _SPREAD,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.grpcAppProtocol": {"type": "string", "minLength": 1},
    "service.trafficDistribution": {
        "enum": ["", "PreferClose", "PreferSameZone", "PreferSameNode"]
    },
    "service.ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.targetCpuPercent": {"type": "integer", "minimum": 1},
    "autoscaling.hashQueueSeconds": _QUANTITY,
    "autoscaling.callsInFlight": _QUANTITY,
    # 0 would let nobody drain a node.
    "podDisruptionBudget.maxUnavailable": {
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": "^[1-9][0-9]*%$",
    },
    "podDisruptionBudget.minAvailable": _SHARE,
    "networkPolicy.https": {"type": ["boolean", "null"]},
    "certManager.clients": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "identity"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"},
                "identity": {"type": "string", "pattern": "^(spiffe://[^/]+/.+|dns:.+)$"},
                "namespace": {"type": "string"},
                "secretName": {"type": "string"},
            },
        },
    },
}
# What null may remove although it has a default: Kubernetes has its own.
_REMOVABLE = frozenset(
    {"resources", "podSecurityContext", "securityContext", "strategy", "behavior", "labels"}
)
# A parent chart gives these to its parts.
_OF_PARENTS: Schema = {"global": {"type": "object"}, "enabled": {"type": "boolean"}}


def values_schema() -> Schema:
    """Return the schema of the chart's values."""
    values = yaml.safe_load(_VALUES.read_text())
    comments = dict(_comments())
    schema = _own(values, "", comments)
    schema["properties"] |= _OF_PARENTS
    settings = _without_secrets(settings_schema())
    schema["definitions"] = settings.pop("$defs")
    # The chart goes by their ports.
    settings["required"] = ["grpc", "http", *settings["required"]]
    for name in ("GrpcSettings", "HttpSettings"):
        schema["definitions"][name]["required"] = ["address"]
    schema["properties"]["config"] = settings | {"description": comments["config"]}
    # The draft that every Helm 3 knows.
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "authsvc"} | schema


def _own(value: Any, path: str, comments: Mapping[str, str]) -> Schema:
    """Return the schema of a value of the chart itself, by its default."""
    known = _KNOWN.get(path) or _KNOWN.get(path.rpartition(".")[2])
    made: Schema
    if known is not None:
        made = dict(known)
    elif isinstance(value, dict):
        made = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: _own(inner, f"{path}.{name}".lstrip("."), comments)
                for name, inner in value.items()
            },
            # Helm drops a key whose value is null; without these, the templates are at a loss.
            "required": [
                name
                for name, inner in value.items()
                if inner not in (None, "", [], {}) and name not in _REMOVABLE
            ],
        }
    elif isinstance(value, list):
        made = dict(_OBJECTS)
    elif isinstance(value, bool):
        made = {"type": "boolean"}
    elif isinstance(value, int):
        made = dict(_COUNT)
    else:
        made = {"type": "string"}
    if path in comments:
        made["description"] = comments[path]
    return made


def _comments() -> Iterator[tuple[str, str]]:
    """Yield the path of each key of values.yaml that has a comment above it, and the comment."""
    keys: list[tuple[int, str]] = []
    lines: list[str] = []
    for line in _VALUES.read_text().splitlines():
        found = _LINE.fullmatch(line)
        if found is None or not line.strip():
            lines = []
        elif found["key"] is None:
            lines.append(found["comment"])
        else:
            depth = len(found[1])
            keys = [each for each in keys if each[0] < depth] + [(depth, found["key"])]
            if lines:
                yield ".".join(name for _, name in keys), " ".join(lines)
            lines = []


def _without_secrets(schema: Mapping[str, Any]) -> Schema:
    """Return a schema of settings without what belongs into a Secret, as Go's libraries take it."""
    made = {
        key: _converted(key, inner)
        for key, inner in schema.items()
        if key not in {"title", "default"} and not key.startswith("x-")
    }
    if "required" in made:
        there = made["properties"].keys() - _COMPLETED
        made["required"] = [name for name in made["required"] if name in there]
    return made


# Sections of which the Secret alone may have all.
_COMPLETED = frozenset({"database"})


def _converted(key: str, inner: Any) -> Any:
    if key in {"properties", "$defs"}:
        return {
            name: _without_secrets(each) for name, each in inner.items() if not _is_secret(each)
        }
    if key == "patternProperties":
        return {_for_go(name): _without_secrets(each) for name, each in inner.items()}
    if key == "pattern":
        return _for_go(inner)
    if isinstance(inner, dict):
        return _without_secrets(inner)
    if isinstance(inner, list):
        return [_without_secrets(each) if isinstance(each, dict) else each for each in inner]
    return inner.replace("#/$defs/", "#/definitions/") if key == "$ref" else inner


def _is_secret(schema: Mapping[str, Any]) -> bool:
    """Return whether only the Secret can have a key: a list can't be completed by it."""
    plain = resolve(schema)
    if plain.get("format") == "password":
        return True
    if "items" in plain:
        item = resolve(plain["items"])
        return _is_secret(item) or any(map(_is_secret, item.get("properties", {}).values()))
    inner = plain.get("properties", {}).values()
    return bool(inner) and all(map(_is_secret, inner))


def _for_go(pattern: str) -> str:
    r"""Return a pattern as Go takes it, which has no \u2028, and no repetition above 1000."""
    pattern = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), pattern)
    return re.sub(r"\{0,[0-9]{4,}\}", "*", pattern)


def known_settings() -> Mapping[str, Any]:
    """Return what the templates have to know of the settings."""
    schema = settings_schema()["$defs"]
    return {
        "reloaded": list(RELOADED),
        "drain_timeout": schema["GrpcSettings"]["properties"]["drain_timeout"]["default"],
        "hash_memory_mib": schema["PasswordSettings"]["properties"]["hash_memory_mib"]["default"],
        "smtp_port": schema["SmtpSettings"]["properties"]["port"]["default"],
        "syslog_port": schema["SyslogSettings"]["properties"]["port"]["default"],
        "otlp_port": OTLP_PORT,
    }


def page() -> str:
    """Return docs/kubernetes.md with the table of the values that it should have."""
    rows = "".join(
        f"| `{path}` | {_default(value)} | {comment} |\n"
        for path, comment in _comments()
        for value in [_at(path)]
    )
    return _TABLE.sub(
        lambda _: "| value | default | meaning |\n|---|---|---|\n" + rows, PAGE.read_text()
    )


def _at(path: str) -> Any:
    found = yaml.safe_load(_VALUES.read_text())
    for name in path.split("."):
        found = found[name]
    return found


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, dict | list):
        return "see values.yaml"
    return f"`{json.dumps(value)}`" if isinstance(value, str) else str(value).lower()


def main() -> None:
    """Compare the files with what they should be, or write them."""
    files = {
        CHART / "values.schema.json": json.dumps(values_schema(), indent=1) + "\n",
        CHART / "files" / "settings.json": json.dumps(known_settings(), indent=2) + "\n",
        PAGE: page(),
    }
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--write" in sys.argv[1:]:
        for path in stale:
            path.write_text(files[path])
    elif stale:
        names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
        sys.exit(f"error: {names} differs from values.yaml or the settings; run `make settings`")


if __name__ == "__main__":
    main()
