"""Draws a dashboard as a page: its panels where Grafana has them, with the results of queries."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from deploy.observability.board import Board, Kind, Panel, Unit

Points = Sequence[tuple[float, float]]

_COLUMN, _ROW, _GAP = 54, 34, 8
_COLORS = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#d44a3a", "#0a8c8c", "#b8860b", "#7b7b7b")
_STYLE = """
body { margin: 0; background: #f4f5f5; font: 12px "DejaVu Sans", sans-serif; color: #24292e; }
h1 { font-size: 18px; margin: 12px 8px; }
section { position: absolute; background: #fff; border: 1px solid #d5d9de; overflow: hidden; }
section h3 { font-size: 12px; margin: 6px 8px 2px; }
h2 { position: absolute; font-size: 14px; margin: 6px 8px; }
.legend { font-size: 9px; margin: 0 8px; line-height: 12px; }
.legend span { margin-right: 8px; white-space: nowrap; }
.number { font-size: 26px; margin: 24px 8px; }
table { font-size: 10px; margin: 4px 8px; border-spacing: 12px 1px; }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A series of a panel, by its legend."""

    legend: str
    points: Points


def legend(template: str, labels: Mapping[str, str]) -> str:
    """Return a legend with the values of labels, as Grafana fills it in."""
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template or ", ".join(labels.values())


def draw(board: Board, lines: Mapping[str, Sequence[Line]]) -> str:
    """Return the page of a dashboard; `lines` are the series of each panel by its title."""
    panels = {panel.title: panel for panel in board.panels}
    parts, bottom = [], 0
    for each in board.document()["panels"]:
        place = each["gridPos"]
        left, top = place["x"] * _COLUMN + _GAP, place["y"] * _ROW + 48
        bottom = max(bottom, top + place["h"] * _ROW)
        if each["type"] == "row":
            parts.append(f'<h2 style="left:{left}px;top:{top}px">{html.escape(each["title"])}</h2>')
            continue
        width, height = place["w"] * _COLUMN - _GAP, place["h"] * _ROW - _GAP
        panel = panels[each["title"]]
        content = _content(panel, lines[panel.title], width, height)
        parts.append(
            f'<section style="left:{left}px;top:{top}px;width:{width}px;height:{height}px">'
            f"<h3>{html.escape(panel.title)}</h3>{content}</section>"
        )
    return (
        f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style>'
        f'<body style="height:{bottom + _GAP}px"><h1>authsvc: {board.title}</h1>' + "".join(parts)
    )


def height_of(board: Board) -> int:
    """Return how high a window has to be to show the whole page."""
    places = [panel["gridPos"] for panel in board.document()["panels"]]
    return int(max(place["y"] + place["h"] for place in places)) * _ROW + 64


def _content(panel: Panel, lines: Sequence[Line], width: int, height: int) -> str:
    if panel.kind is Kind.NUMBER:
        values = " ".join(_written(line.points[-1][1], panel.unit) for line in lines)
        return f'<div class="number">{values}</div>{_legends(lines)}'
    if panel.kind is Kind.TABLE:
        rows = "".join(
            f"<tr><td>{html.escape(line.legend)}</td><td>{line.points[-1][1]:g}</td></tr>"
            for line in lines
        )
        return f"<table>{rows}</table>"
    return _graph(panel, lines, width, height - 80) + _legends(lines)


def _legends(lines: Sequence[Line]) -> str:
    spans = (
        f'<span style="color:{_COLORS[number % len(_COLORS)]}">■ {html.escape(line.legend)}</span> '
        for number, line in enumerate(lines)
    )
    return f'<div class="legend">{"".join(spans)}</div>'


def _graph(panel: Panel, lines: Sequence[Line], width: int, height: int) -> str:
    points = [point for line in lines for point in line.points if not isnan(point[1])]
    if not points:
        return '<div class="number">no number</div>'
    first, last = min(time for time, _ in points), max(time for time, _ in points)
    low, high = min(0.0, *(v for _, v in points)), max(*(v for _, v in points), 1e-9)
    left, right = 60, width - 12

    def at(time: float, value: float) -> str:
        x = left + (right - left) * (time - first) / max(last - first, 1e-9)
        y = 8 + (height - 20) * (1 - (value - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    drawn = "".join(
        f'<polyline fill="none" stroke="{_COLORS[number % len(_COLORS)]}" stroke-width="1.5"'
        f' points="{" ".join(at(t, v) for t, v in line.points if not isnan(v))}"/>'
        for number, line in enumerate(lines)
    )
    grid = "".join(
        f'<line x1="{left}" x2="{right}" y1="{at(first, value).split(",")[1]}"'
        f' y2="{at(first, value).split(",")[1]}" stroke="#e3e5e8"/>'
        f'<text x="4" y="{float(at(first, value).split(",")[1]) + 3}" font-size="9">'
        f"{_written(value, panel.unit)}</text>"
        for value in (low, (low + high) / 2, high)
    )
    return f'<svg width="{width}" height="{height}">{grid}{drawn}</svg>'


def _written(value: float, unit: Unit) -> str:
    if unit is Unit.SHARE:
        return f"{value:.2%}"
    if unit is Unit.BYTES:
        return f"{value / 2**20:.0f} MiB"
    if unit is Unit.PER_SECOND:
        return f"{value:.3g}/s"
    if unit is Unit.SECONDS:
        if value >= 2 * 86_400:
            return f"{value / 86_400:.1f} d"
        return f"{value:.3g} s" if value >= 1 or value <= 0 else f"{value * 1_000:.3g} ms"
    return f"{value:.3g}"
