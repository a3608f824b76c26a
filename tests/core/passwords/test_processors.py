"""Hashing leaves a processor to the rest, and respects a container's CPU quota."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from authsvc.core.lib.control_groups import ControlGroups
from authsvc.core.passwords import processors
from authsvc.core.passwords.processors import spare_processors
from tests.support.control_groups import tree


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_allowed_processors", lambda: 8)


@pytest.mark.parametrize(
    ("membership", "files", "spare"),
    [
        ("0::/\n", {}, 7),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 7),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "25000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 7),
        ("0::/\n", {"cpu.max": "nonsense"}, 7),
        # A group within another, which has the smaller quota.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "600000 100000\n"}, 2),
        # In a container, where the path is the host's.
        ("0::/kubepods/pod1/c1\n", {"cpu.max": "300000 100000\n"}, 2),
        # Version 1.
        (
            "9:cpu,cpuacct:/docker/x\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "9:cpu:/\n8:cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            7,
        ),
    ],
)
def test_quota_counts_as_processors(
    tmp_path: Path, membership: str, files: Mapping[str, str], spare: int
) -> None:
    assert spare_processors(tree(tmp_path, membership, files)) == spare


def test_one_thread_is_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_allowed_processors", lambda: 1)
    assert spare_processors(tree(tmp_path, "0::/\n", {})) == 1


def test_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert spare_processors(ControlGroups(tmp_path / "none", tmp_path / "neither")) == 7


def test_affinity_counts_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    groups = tree(tmp_path, "0::/\n", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert spare_processors(groups) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert spare_processors(groups) == 4
