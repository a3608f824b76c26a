"""The schema of the chart's values: it takes every setting, no secret, and nothing that is wrong.

What the chart makes of values is tried in `tests/world/test_chart.py`.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from authsvc import __version__
from authsvc.config import Settings, durations
from authsvc.config.reference import rows
from authsvc.config.text import example_text
from tests.support.chart_files import CHART, known_settings, values_schema

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
OBSERVABILITY = CHART.parent / "observability"
VALUES: Mapping[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
# Every setting that is no secret, with its default, or an example.
SETTINGS: Mapping[str, Any] = tomllib.loads(re.sub(r"(?m)^#(?! )", "", example_text()))
# With the names that the examples have where an operator chooses one.
SECRETS = {
    row.key.partition("[]")[0].replace("NAME", "example")
    for row in rows()
    if "secret" in row.kind or row.key.startswith("secrets.")
}


def _problems(config: Mapping[str, Any], **values: object) -> list[str]:
    given = {**VALUES, **values, "config": {**VALUES["config"], **config}}
    return [error.json_path for error in VALIDATOR.iter_errors(given)]


def _keys(table: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from _keys(value, (*before, name))


def _with(path: tuple[str, ...], value: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(SETTINGS))
    table = document
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value
    return document


def test_generated_files_are_up_to_date() -> None:
    assert values_schema() == SCHEMA
    assert json.loads((CHART / "files" / "settings.json").read_text()) == known_settings()


def test_defaults_are_valid() -> None:
    assert _problems({}) == []


def test_every_setting_is_a_value() -> None:
    assert set(SETTINGS) == set(Settings.model_fields) - {"secrets"}
    assert _problems(SETTINGS) == []


@pytest.mark.parametrize("section", sorted(SETTINGS))
def test_wrong_setting_is_refused(section: str) -> None:
    validator = VALIDATOR.evolve(schema=SCHEMA["properties"]["config"]["properties"][section])
    for path in _keys({section: SETTINGS[section]}):
        assert not validator.is_valid(_with(path, [["wrong"]])[section]), ".".join(path)


@pytest.mark.parametrize("path", sorted(SECRETS))
def test_secret_is_no_value(path: str) -> None:
    assert _problems(_with(tuple(path.split(".")), "a secret"))


def test_every_value_is_described() -> None:
    """By the comment above it, or above the table that it is in."""

    def undescribed(schema: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, inner in schema.get("properties", {}).items():
            if "description" not in inner:
                if "properties" in inner:
                    yield from undescribed(inner, f"{path}{name}.")
                else:
                    yield f"{path}{name}"

    own = {name: inner for name, inner in SCHEMA["properties"].items() if name in VALUES}
    assert list(undescribed({"properties": own}, "")) == []


def test_unknown_value_is_refused() -> None:
    assert _problems({"rpc": {}}) == ["$.config"]
    assert _problems({}, replica=3) == ["$"]
    assert set(_problems({}, image={"repo": "authsvc"})) == {"$.image"}


def test_parent_chart_may_add_its_own() -> None:
    """Helm gives `global` to each part of a chart, and `enabled` switches one off."""
    assert _problems({}, **{"global": {"region": "eu"}, "enabled": True}) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("image.digest", "sha256:abc"),
        ("image.digest", "latest"),
        ("podDisruptionBudget.maxUnavailable", 0),
        ("podDisruptionBudget.maxUnavailable", "0%"),
        ("migration.mode", "job"),
        ("migration.ttlSecondsAfterFinished", 0),
        ("spread.zones", "Always"),
        ("autoscaling.minReplicas", 0),
        ("networkPolicy.database.ports", []),
        ("podLabels", {"one": 1}),
        ("certManager.clients", [{"name": "shop", "identity": "shop"}]),
        ("replicas", "three"),
    ],
)
def test_wrong_value_of_the_chart_is_refused(path: str, value: object) -> None:
    given: dict[str, Any] = json.loads(json.dumps(VALUES))
    table = given
    *tables, name = path.split(".")
    for each in tables:
        table = table[each]
    table[name] = value
    assert not VALIDATOR.is_valid(given)


def test_chart_has_the_version_of_the_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_adapter_has_the_metrics_that_the_autoscaler_asks_for() -> None:
    rules = yaml.safe_load((OBSERVABILITY / "adapter.yaml").read_text())["rules"]["custom"]
    names = {
        rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0] for rule in rules
    }
    template = (CHART / "templates" / "horizontalpodautoscaler.yaml").read_text()
    assert names == set(re.findall(r'"(authsvc_\w+)"', template))


def test_known_default_of_the_drain_is_that_of_the_settings() -> None:
    default = Settings.model_fields["grpc"].get_default(call_default_factory=True).drain_timeout
    assert durations.parse(known_settings()["drain_timeout"]) == default
