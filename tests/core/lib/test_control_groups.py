"""The limits of control groups are read, whatever their version and however they are nested."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from authsvc.core.lib.control_groups import ControlGroups
from tests.support.control_groups import tree

MIB = 1 << 20


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": "nonsense"}, None),
        ("0::/\n", {"memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        # A group within another, which has the smaller limit.
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{200 * MIB}\n"}, 200 * MIB),
        # In a container, where the path is the host's.
        ("0::/kubepods/pod1/c1\n", {"memory.max": f"{300 * MIB}\n"}, 300 * MIB),
        # Version 1.
        (
            "8:memory:/docker/x\n0::/\n",
            {"memory/docker/x/memory.limit_in_bytes": f"{100 * MIB}\n"},
            100 * MIB,
        ),
        ("8:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_smallest_limit_of_memory_counts(
    tmp_path: Path, membership: str, files: Mapping[str, str], limit: int | None
) -> None:
    assert tree(tmp_path, membership, files).memory() == limit


def test_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    groups = ControlGroups(tmp_path / "none", tmp_path / "neither")
    assert (groups.memory(), groups.processors()) == (None, None)
