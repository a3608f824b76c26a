"""Owns the generator of the files in deploy/observability.

`python -m deploy.observability` fails if they differ from what this package describes; with
`--write` it writes them.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from deploy.observability import causes, objectives
from deploy.observability.boards import BOARDS
from deploy.observability.rule import Group, Times

FOLDER = Path(__file__).parent
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


def files() -> Mapping[Path, str]:
    """Return the text of each committed file."""
    rules = {FOLDER / "rules" / name: text for name, text in rule_files(Times()).items()}
    boards = {
        FOLDER / "dashboards" / f"{board.name}.json": json.dumps(board.document(), indent=2) + "\n"
        for board in BOARDS
    }
    return rules | boards


def main() -> None:
    """Compare the committed files with their description, or write them."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files")
    arguments = parser.parse_args()
    wanted = files()
    there = {*FOLDER.glob("rules/*"), *FOLDER.glob("dashboards/*")}
    stale = [path for path, text in wanted.items() if path not in there or path.read_text() != text]
    left = sorted(there - wanted.keys())
    if arguments.write:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        for path in left:
            path.unlink()
    elif stale or left:
        names = ", ".join(str(path.relative_to(FOLDER)) for path in (*stale, *left))
        sys.exit(f"error: {names}: run `python -m deploy.observability --write`")


if __name__ == "__main__":
    main()
