"""Owns the limits that the kernel sets to this process by its control groups (cgroups, Linux)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Version 1 says "no limit" by a number near the largest that there is.
_NO_MEMORY_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups of this process, of version 1 or 2, and those above them.

    `root` is where they are mounted, and `membership` says which of them are this process's.
    """

    root: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def processors(self) -> float | None:
        """Return the smallest quota, in processors; None if there is none."""
        found = (
            _quota(*files)
            for files in (
                *self._files("", "cpu.max"),
                *self._files("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
            )
        )
        return min((quota for quota in found if quota), default=None)

    def memory(self) -> int | None:
        """Return the smallest limit of memory, in bytes; None if there is none."""
        found = (
            _memory(file)
            for (file,) in (
                *self._files("", "memory.max"),
                *self._files("memory", "memory.limit_in_bytes"),
            )
        )
        return min((limit for limit in found if limit), default=None)

    def _files(self, controller: str, *names: str) -> Iterator[tuple[Path, ...]]:
        """Yield the files of each group of a controller; "" stands for version 2."""
        try:
            groups = [line.split(":", 2) for line in self.membership.read_text().splitlines()]
        except OSError:
            return
        for _, controllers, path in groups:
            if controller in controllers.split(","):
                for folder in _with_ancestors(self.root / controller, path):
                    yield tuple(folder / name for name in names)


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


def _quota(*files: Path) -> float | None:
    """Return the quota in `cpu.max`, or in the two files of version 1, if there is one."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        # Not there, or "max", which is no number.
        return None


def _memory(file: Path) -> int | None:
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):
        return None
    return limit if 0 < limit < _NO_MEMORY_LIMIT else None
