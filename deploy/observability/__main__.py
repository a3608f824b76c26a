"""Owns the generator of the files in deploy/observability, and of the index of runbooks.

`python -m deploy.observability` fails if they differ from what this package describes; with
`--write` it writes them.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from deploy.observability import causes, objectives
from deploy.observability.boards import BOARDS
from deploy.observability.rule import Alert, Group, Times

FOLDER = Path(__file__).parent
RUNBOOKS = FOLDER.parents[1] / "docs" / "runbooks" / "README.md"
_TABLE = re.compile(r"(?<=<!-- alerts -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
_NOTE = "# Written by `python -m deploy.observability --write`; don't edit it.\n"


class _Yaml(yaml.SafeDumper):
    """Writes lines of a text as lines."""


def _text(dumper: _Yaml, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Yaml.add_representer(str, _text)


def rule_files(times: Times) -> Mapping[str, str]:
    """Return the files of rules by name, with their times divided."""
    groups: Mapping[str, list[Group]] = {
        "recording": [*objectives.recordings(times)],
        "objectives": [*objectives.alerts(times)],
        "causes": [*causes.alerts(times)],
    }
    return {
        f"{name}.yaml": _NOTE
        + yaml.dump(
            {"groups": [group.document() for group in each]},
            Dumper=_Yaml,
            sort_keys=False,
            width=100,
            allow_unicode=True,
        )
        for name, each in groups.items()
    }


def alerts() -> list[Alert]:
    """Return all alerts, with their times as they are."""
    groups = [*objectives.alerts(Times()), *causes.alerts(Times())]
    return [rule for group in groups for rule in group.rules if isinstance(rule, Alert)]


def runbooks() -> str:
    """Return the index of runbooks with the table of alerts that it should have."""
    severities: dict[str, set[str]] = {}
    for alert in alerts():
        severities.setdefault(alert.name, set()).add(alert.severity.value)
    rows = {
        alert.name: f"| [`{alert.name}`]({alert.page}.md)"
        f" | {' or '.join(sorted(severities[alert.name]))} | {alert.summary} |\n"
        for alert in alerts()
    }
    table = "| alert | is a | means |\n|---|---|---|\n" + "".join(rows.values())
    return _TABLE.sub(lambda _: table, RUNBOOKS.read_text())


def files() -> Mapping[Path, str]:
    """Return the text of each generated file."""
    rules = {FOLDER / "rules" / name: text for name, text in rule_files(Times()).items()}
    boards = {
        FOLDER / "dashboards" / f"{board.name}.json": json.dumps(board.document(), indent=2) + "\n"
        for board in BOARDS
    }
    return {**rules, **boards, RUNBOOKS: runbooks()}


def main() -> None:
    """Compare the committed files with their description, or write them."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files")
    arguments = parser.parse_args()
    wanted = files()
    there = {*FOLDER.glob("rules/*"), *FOLDER.glob("dashboards/*"), RUNBOOKS}
    stale = [path for path, text in wanted.items() if path not in there or path.read_text() != text]
    left = sorted(there - wanted.keys())
    if arguments.write:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        for path in left:
            path.unlink()
    elif stale or left:
        names = ", ".join(str(path.relative_to(FOLDER.parents[1])) for path in (*stale, *left))
        sys.exit(f"error: {names}: run `python -m deploy.observability --write`")


if __name__ == "__main__":
    main()
