"""Owns the count of planned stops, by which restarts on purpose are told from crashes.

The count outlives the process in the folder that systemd gives a service (`StateDirectory=`). On
Kubernetes there is none, nor a need: a pod that is replaced is another replica, and whatever makes
a container start again within its pod is no plan.
"""

import os
from pathlib import Path
from typing import Self

import structlog

_FOLDER = "STATE_DIRECTORY"
_FILE = "planned_stops"
# What a file may say at most, so that a damaged one is not taken for a count.
_DIGITS = 9

log = structlog.get_logger(__name__)


class PlannedStops:
    """How often this service was told to stop; 0 without a folder to keep the count in."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / _FILE if folder else None
        self.count = _read(self._file) if self._file else 0

    @classmethod
    def of_environment(cls) -> Self:
        """Return the count in systemd's folder, which is the first if there are several."""
        folder = os.environ.get(_FOLDER, "").partition(":")[0]
        return cls(Path(folder) if folder else None)

    def note(self) -> None:
        """Count a stop; a folder that can't be written to is logged, and the stop goes on."""
        if self._file is None:
            return
        scratch = self._file.with_suffix(".new")
        try:
            scratch.write_text(f"{self.count + 1}\n")
            scratch.replace(self._file)
        except OSError as error:
            log.warning("planned_stop_not_noted", problem=error.strerror)


def _read(file: Path) -> int:
    try:
        text = file.read_text("ascii")[: _DIGITS + 1].strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0
