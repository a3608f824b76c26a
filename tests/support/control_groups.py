"""Control groups that a test describes by the files that the kernel would show."""

from collections.abc import Mapping
from pathlib import Path

from authsvc.core.lib.control_groups import ControlGroups


def tree(folder: Path, membership: str, files: Mapping[str, str]) -> ControlGroups:
    """Return the control groups that `files` describe; `membership` says which are ours."""
    groups, own = folder / "cgroup", folder / "self"
    groups.mkdir()
    own.write_text(membership)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    return ControlGroups(groups, own)
