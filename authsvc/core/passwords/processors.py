"""Owns the number of processors that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def spare_processors(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return how many threads may compute at once without slowing the rest of this process.

    That is one less than the processors that this process may use, and at least one. A container's
    CPU quota counts as so many whole processors: when it is used up, the kernel stops the whole
    process, whatever the priorities of its threads.
    """
    usable = min([_allowed_processors(), *_quotas(cgroups, membership)])
    return max(1, int(usable) - 1)


def _allowed_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """Yield the quotas of this process's control groups and their ancestors, in processors."""
    try:
        groups = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers:
            for folder in _with_ancestors(cgroups, path):
                yield from _quota(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in _with_ancestors(cgroups / "cpu", path):
                yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _with_ancestors(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and those above it, up to the root.

    In a container, `path` may be the host's name of the group, while `root` is the group itself.
    Folders that don't exist are harmless: they have no files to read.
    """
    folder = root / path.strip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _quota(*files: Path) -> Iterator[float]:
    """Yield the quota in `cpu.max`, or in the two files of version 1, if there is one."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        # Not there, or "max", which is no number.
        return
