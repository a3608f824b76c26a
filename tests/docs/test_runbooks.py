"""There is a runbook for every detection and every alert, and commands work literally.

Those of an alert's runbook are tried in `tests/world/test_alerts.py`, while it fires.
"""

import json
import re
from pathlib import Path

import pytest

from authsvc.app.application import Application
from authsvc.models.incidents import DetectionName, LoginMethod
from deploy.observability.__main__ import alerts
from tests.support.documents import REPOSITORY, Page, page
from tests.support.shell import sh

FOLDER = REPOSITORY / "docs" / "runbooks"
INDEX = page("docs/runbooks/README.md")
RUNBOOKS = [INDEX, *(Page(FOLDER / f"{name.value}.md") for name in DetectionName)]
_USER = "ada@example.com"


def test_every_runbook_is_of_a_detection_or_an_alert() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    assert pages == {name.value for name in DetectionName} | {alert.page for alert in alerts()}


def test_index_names_every_detection() -> None:
    listed = [row[0] for row in INDEX.tables("detection", "means")]
    assert listed == [f"[`{name.value}`]({name.value}.md)" for name in DetectionName]


def test_index_names_every_method() -> None:
    listed = [row[0].strip("`") for row in INDEX.tables("`--method`", "refuses")]
    assert listed == [method.value for method in LoginMethod]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!R]*.md")), ids=lambda path: path.stem)
def test_runbook_says_what_it_means_and_what_to_do(path: Path) -> None:
    runbook = Page(path)
    assert "**Seen:**" in runbook.text
    assert "**What else it may be:**" in runbook.text
    assert [
        line for line in runbook.text.splitlines() if line in {"## Look", "## Act", "## Afterwards"}
    ] == ["## Look", "## Act", "## Afterwards"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_no_query_hides_one_metric_behind_another(path: Path) -> None:
    """What `or` has on its right is left out for each replica that its left has: name both."""
    queries = re.findall(r"""promtool query instant "\$PROMETHEUS" '(.*)'""", path.read_text())
    assert [query for query in queries if " or " in query] == []


async def test_each_abandoned_message_is_retried_in_kubernetes(tmp_path: Path) -> None:
    """There, `authsvc` is a function whose kubectl reads standard input to the end."""
    replica = """
    authsvc() {
        case "$2" in
            list) echo '[{"message_id": "first"}, {"message_id": "second"}]' ;;
            retry) cat >/dev/null; echo "$3" ;;
        esac
    }
    """
    [block] = [b for b in page("docs/runbooks/messages_abandoned.md").blocks("sh") if "while" in b]
    assert await sh(replica + block, tmp_path) == "first\nsecond\n"


@pytest.mark.world
@pytest.mark.timeout(1_800)
async def test_all_commands_of_all_runbooks_work(running: Application, tmp_path: Path) -> None:
    """One service for all pages, each of which leaves nothing frozen."""
    # A database without a signing key would have nothing to revoke; the service has made one.
    assert running.grpc_port
    await sh(f"authsvc users create {_USER} --password-stdin", tmp_path, "Correct-Horse-42-Staple")
    for runbook in RUNBOOKS:
        for block in runbook.blocks("sh"):
            await sh(block, tmp_path)
        status = json.loads(await sh("authsvc incident status --json", tmp_path))
        assert status["freezes"] == [], str(runbook)
        assert status["events"], str(runbook)
