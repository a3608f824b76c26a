"""Owns the number of processors that this process may use."""

import os

from authsvc.core.lib.control_groups import ControlGroups


def usable_processors(groups: ControlGroups = ControlGroups()) -> float:  # noqa: B008 - immutable
    """Return how many processors this process may use, by affinity and CPU quota."""
    return min(_allowed_processors(), groups.processors() or float("inf"))


def spare_processors(groups: ControlGroups = ControlGroups()) -> int:  # noqa: B008 - immutable
    """Return how many threads may compute at once without slowing the rest of this process.

    That is one less than the processors that this process may use, and at least one. A container's
    CPU quota counts as so many whole processors: when it is used up, the kernel stops the whole
    process, whatever the priorities of its threads.
    """
    return max(1, int(usable_processors(groups)) - 1)


def _allowed_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
