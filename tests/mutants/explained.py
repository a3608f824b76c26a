"""Owns the list of survivors that are accepted, each with the reason."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.mutants.mutant import Key, Mutant


def read_explained(path: Path) -> dict[Key, str]:
    """Return the reason for each survivor that is accepted.

    Raises:
        ValueError: One is listed twice or has no reason.
    """
    tables = tomllib.loads(path.read_text()).get("survivor", ())
    explained: dict[Key, str] = {}
    for table in tables:
        reason = table.pop("reason", "")
        key = Key(**({"function": "", "ordinal": 1} | table))
        if not reason.strip() or key in explained:
            raise ValueError(f"{path.name}: {key} has no reason, or two.")
        explained[key] = reason
    return explained


def unmatched(explained: Mapping[Key, str], mutants: Iterable[Mutant]) -> list[Key]:
    """Return what is explained but is no mutant of the code as it is."""
    known = {mutant.key for mutant in mutants}
    return [key for key in explained if key not in known]


def stub(key: Key) -> str:
    """Return the lines to add to the list for a survivor, but for the reason."""
    lines = ["[[survivor]]", f"module = {_quote(key.module)}"]
    if key.function:
        lines.append(f"function = {_quote(key.function)}")
    lines += [
        f"operator = {_quote(key.operator)}",
        f"before = {_quote(key.before)}",
        f"after = {_quote(key.after)}",
    ]
    if key.ordinal != 1:
        lines.append(f"ordinal = {key.ordinal}")
    return "\n".join([*lines, 'reason = ""'])


def _quote(text: str) -> str:
    if "'" not in text and "\n" not in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
