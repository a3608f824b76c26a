"""The rules and dashboards: generated as committed, each alert with a runbook, on existing series.

That Prometheus takes them, and that each alert fires, is tried in `tests/world`.
"""

import json
import re
from collections import defaultdict
from typing import Any

import pytest
import yaml

from authsvc.models.incidents import DetectionName
from deploy.observability.__main__ import FOLDER, alerts, files, rule_files
from deploy.observability.boards import BOARDS
from deploy.observability.rule import Times
from tests.support.documents import REPOSITORY, Page

_RUNBOOKS = REPOSITORY / "docs" / "runbooks"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_file_is_current(path: Any) -> None:
    assert path.read_text() == files()[path], "run `python -m deploy.observability --write`"


def test_nothing_else_is_committed() -> None:
    there = {*FOLDER.glob("rules/*"), *FOLDER.glob("dashboards/*")}
    assert there <= files().keys()


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_alert_has_runbook(alert: Any) -> None:
    assert re.fullmatch(r"Authsvc([A-Z][a-z]+)+", alert.name)
    runbook = Page(_RUNBOOKS / f"{alert.page}.md")
    assert alert.document()["annotations"]["runbook_url"] == str(runbook)
    assert runbook.blocks("sh"), "there is nothing to do"


def test_every_detection_has_an_alert() -> None:
    assert {name.value for name in DetectionName} <= {alert.page for alert in alerts()}


def test_times_are_divided_everywhere() -> None:
    """But for those in seconds, which are numbers, the same rules with other times."""
    plain, divided = (
        [
            rule
            for text in rule_files(times).values()
            for group in yaml.safe_load(text)["groups"]
            for rule in group["rules"]
        ]
        for times in (Times(), Times(360))
    )
    for before, after in zip(plain, divided, strict=True):
        times = re.findall(r"\[(\w+)\]|offset (\w+)", before["expr"] + f"[{before.get('for')}]")
        written = [time for pair in times for time in pair if time and time != "None"]
        assert not any(
            re.search(rf"(\[|offset ){time}\b", after["expr"]) or after.get("for") == time
            for time in written
        )
    assert {rule.get("record") or rule["alert"] for rule in plain} == {
        rule.get("record") or rule["alert"] for rule in divided
    }


def test_panels_fill_the_grid_without_overlap() -> None:
    for board in BOARDS:
        taken: dict[int, set[int]] = defaultdict(set)
        panels = board.document()["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        for panel in panels:
            place = panel["gridPos"]
            columns = set(range(place["x"], place["x"] + place["w"]))
            assert max(columns) < 24, panel["title"]
            for row in range(place["y"], place["y"] + place["h"]):
                assert not taken[row] & columns, panel["title"]
                taken[row] |= columns


def test_dashboards_are_found_by_their_ids() -> None:
    documents = [
        json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
    ]
    assert [document["uid"] for document in documents] == [
        "authsvc-database",
        "authsvc-limits",
        "authsvc-logins",
        "authsvc-overview",
    ]
