"""The tables of docs/telemetry.md are those of the code."""

import re

from authsvc.conventions import METRICS, SPANS
from authsvc.tracing import MAX_SPANS
from tests.support.documents import page

TELEMETRY = page("docs/telemetry.md")


def _codes(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def test_page_has_every_span() -> None:
    listed = [
        (*_codes(name), kind, _codes(attributes))
        for name, kind, attributes in TELEMETRY.tables("span", "kind", "attributes")
    ]
    assert listed == [tuple(span) for span in SPANS]


def test_page_has_every_metric_with_another_name() -> None:
    listed = {
        name.strip("`"): (*_codes(other), unit, _codes(labels))
        for name, other, unit, labels in TELEMETRY.tables("metric in `/metrics`")
    }
    assert listed == {
        name: (metric.name, metric.unit, tuple(_pairs(metric.labels)))
        for name, metric in METRICS.items()
    }


def _pairs(labels: object) -> list[str]:
    assert hasattr(labels, "items")
    return [text for pair in labels.items() for text in pair]


def test_page_says_how_many_spans_a_trace_has() -> None:
    assert f"at most {MAX_SPANS} spans" in TELEMETRY.text
