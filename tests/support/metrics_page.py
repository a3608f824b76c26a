"""Owns the generated page of the metrics, docs/metrics.md.

`python -m tests.support.metrics_page` fails if it differs from the table of metrics; with `--write`
it writes it.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

from authsvc.app.metrics import SECTIONS
from authsvc.app.metrics.table import Kind, Metric
from tests.support.documents import REPOSITORY

PAGE = REPOSITORY / "docs" / "metrics.md"
_HEADER = "| metric | kind, unit | fleet | meaning | worry when |\n|---|---|---|---|---|\n"
_TABLES = re.compile(r"(?<=<!-- metrics -->\n).*(?=<!-- end -->)", re.DOTALL)


def page() -> str:
    """Return the page of the metrics with the tables that it should have."""
    tables = "".join(_section(title, metrics) for title, metrics in SECTIONS)
    return _TABLES.sub(lambda _: f"\n{tables}", PAGE.read_text())


def _section(title: str, metrics: Sequence[Metric[Any]]) -> str:
    rows = "".join(_row(metric) for metric in metrics)
    return f"## {title}\n\n{_HEADER}{rows}\n"


def _row(metric: Metric[Any]) -> str:
    labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
    kind = f"{metric.kind}, {metric.unit}" if metric.unit else metric.kind
    fleet = "rate, " + metric.fleet if metric.kind is not Kind.GAUGE else metric.fleet
    cells = (f"`{metric.name}{labels}`", kind, fleet, metric.meaning, metric.worry)
    return "".join(f"| {cell} " for cell in cells) + "|\n"


def main() -> None:
    """Compare the page with the table, or write it."""
    stale = PAGE.read_text() != page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    elif stale:
        sys.exit("error: docs/metrics.md differs from the metrics; run `make metrics`")


if __name__ == "__main__":
    main()
