"""The page on checking a deployment lists every check and option of `authsvc doctor`."""

import re

from authsvc.cli.doctor.findings import Level
from authsvc.cli.doctor.table import CHECKS, VALID
from tests.docs.test_commands import COMMANDS
from tests.support.documents import page

PAGE = page("docs/doctor.md")


def test_table_lists_all_checks_in_their_order() -> None:
    listed = [check for check, _ in PAGE.tables("check", "finds")]
    assert listed == [f"`{name}`" for name in (VALID, *(check.name for check in CHECKS))]


def test_levels_are_explained() -> None:
    assert [level for level, _ in PAGE.tables("level", "means")] == [f"`{each}`" for each in Level]


def test_named_options_exist() -> None:
    params = COMMANDS["authsvc doctor"].params
    known = {option for param in params for option in param.opts}
    named = {option for name in PAGE.names() for option in re.findall(r"--[a-z-]+", name)}
    assert named
    assert named <= known
