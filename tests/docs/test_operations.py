"""docs/operations.md against the code."""

import re

import pytest

from authsvc.cli import sizing
from authsvc.config import TokenSettings
from tests.support.documents import REPOSITORY, pages

ROW = re.compile(r"\| (?P<logins>[\d,]+) \| (?P<validations>[\d,]+) \| (?P<sessions>[\d,]+) \| .+")
ROWS = list(ROW.finditer((REPOSITORY / "docs/operations.md").read_text()))


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_sizing_table_has_rows() -> None:
    assert len(ROWS) > 3


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["logins"] + "-" + row["validations"])
def test_row_of_sizing_table_is_what_the_command_says(row: re.Match[str]) -> None:
    sessions = number(row["sessions"])
    found = sizing.size(
        {
            "login": number(row["logins"]),
            "validation": number(row["validations"]),
            "refresh": sessions / TokenSettings().access_lifetime.total_seconds(),
        },
        sessions,
        sizing.read_costs(),
    )
    assert row[0] == (
        f"| {row['logins']} | {row['validations']} | {row['sessions']} | {found.replicas}"
        f" | {found.cpu_request:.1f} to {found.cpu_limit} | {found.memory_request_mib} to"
        f" {found.memory_limit_mib} MiB | {found.database_cores} processors"
        f" | {found.database_connections} |"
    )


def test_only_programs_of_the_image_are_run_in_a_replica() -> None:
    """It has no shell, and nothing else but Python."""
    text = "\n".join(page.text for page in pages()).replace("\\\n", "")
    programs = re.findall(r"\bkubectl [^`\n]*\bexec\b[^`\n]*? -- (\w+)", text)
    assert len(programs) > 4
    assert set(programs) == {"authsvc", "python"}


def test_copies_of_pods_are_admitted_and_not_killed_by_a_probe() -> None:
    """Without a profile, kubectl keeps the liveness probe, which nobody answers in a copy."""
    text = "\n".join(page.text for page in pages()).replace("\\\n", "")
    commands = re.findall(r"^kubectl .*\bdebug\b.*--copy-to=.*$", text, re.MULTILINE)
    assert len(commands) > 1
    assert all("--profile=restricted" in command for command in commands)
