"""Owns what a dashboard is, and its form in Grafana.

In a query, `{@}` selects the replicas that the dashboard shows, and `{@fleet}` the installations,
for series that are recorded for a whole one; `{@, code="OK"}` selects more narrowly.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_FLEET = 'namespace=~"$namespace", job=~"$job"'
_REPLICAS = f'{_FLEET}, instance=~"$instance"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Any series that every replica has.
_ALWAYS = "authsvc_uptime_seconds"
_COLUMNS = 24
_HEIGHT = 8


class Unit(StrEnum):
    """What a panel's values are, by Grafana's names."""

    NUMBER = "short"
    PER_SECOND = "reqps"
    SHARE = "percentunit"
    SECONDS = "s"
    BYTES = "bytes"


class Kind(StrEnum):
    """How a panel shows its queries, by Grafana's names."""

    LINES = "timeseries"
    NUMBER = "stat"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: `queries` by what the legend says; `meaning` says what to look for."""

    title: str
    unit: Unit
    meaning: str
    queries: Mapping[str, str]
    kind: Kind = Kind.LINES
    columns: int = 8

    def expressions(self) -> Iterator[tuple[str, str]]:
        """Yield each legend and its query, with Grafana's variables."""
        for legend, query in self.queries.items():
            selected = query.replace("{@fleet", "{" + _FLEET).replace("{@", "{" + _REPLICAS)
            yield legend, selected

    def document(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel as Grafana stores it, at a place in the grid."""
        is_lines = self.kind is Kind.LINES
        return {
            "id": number,
            "type": self.kind.value,
            "title": self.title,
            "description": self.meaning,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.columns, "h": _HEIGHT},
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit.value,
                    "custom": {"fillOpacity": 10, "showPoints": "never"} if is_lines else {},
                },
                "overrides": [],
            },
            "options": _OPTIONS[self.kind],
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": _SOURCE,
                    "expr": expression,
                    "legendFormat": legend,
                    "range": is_lines,
                    "instant": not is_lines,
                    "format": "table" if self.kind is Kind.TABLE else "time_series",
                }
                for index, (legend, expression) in enumerate(self.expressions())
            ],
        }


_OPTIONS: Mapping[Kind, dict[str, Any]] = {
    Kind.LINES: {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    Kind.NUMBER: {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "textMode": "value_and_name",
        "colorMode": "value",
    },
    Kind.TABLE: {"showHeader": True},
}


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: rows of panels by the row's title."""

    name: str
    title: str
    rows: Mapping[str, Sequence[Panel]]

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, from the top."""
        for panels in self.rows.values():
            yield from panels

    def document(self) -> dict[str, Any]:
        """Return the dashboard as Grafana imports it."""
        return {
            "uid": f"authsvc-{self.name}",
            "title": f"authsvc: {self.title}",
            "tags": ["authsvc"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "authsvc",
                    "tags": ["authsvc"],
                    "keepTime": True,
                    "includeVars": True,
                }
            ],
            "annotations": {"list": [_alerts_in_graphs()]},
            "templating": {"list": [*_variables()]},
            "panels": [*self._documents()],
        }

    def _documents(self) -> Iterator[dict[str, Any]]:
        number, y = 0, 0
        for title, panels in self.rows.items():
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
            x, y = 0, y + 1
            for panel in panels:
                number += 1
                if x + panel.columns > _COLUMNS:
                    x, y = 0, y + _HEIGHT
                yield panel.document(number, x, y)
                x += panel.columns
            y += _HEIGHT


def _alerts_in_graphs() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "enable": True,
        "datasource": _SOURCE,
        "expr": f'ALERTS{{{_FLEET}, alertname=~"Authsvc.*", alertstate="firing"}}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}}",
        "iconColor": "red",
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    before: list[str] = []
    for name in ("namespace", "job", "instance"):
        chosen = ", ".join(f'{each}=~"${each}"' for each in before)
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": f"label_values({_ALWAYS}{{{chosen}}}, {name})",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            # Series without the label, too.
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
        before.append(name)
