"""Owns what a reload of the settings does: which keys changed, and which of them take effect."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from authsvc.config import Section, Settings

# What `Application.reload` passes on; everything else needs a restart.
RELOADED = (
    "callers",
    "rate_limits.policies",
    "brute_force",
    "blocks",
    "codes.requests_per_address",
    "codes.requests_per_ip",
    "codes.resend_interval",
)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Keys that changed: `applied` take effect from now on, `restart_needed` after a restart."""

    applied: list[str]
    restart_needed: list[str]


class Reload:
    """The settings in force, and those that a restart would bring.

    `fingerprint` is the same for the same settings in force, whatever their secrets.
    """

    def __init__(self, started_with: Settings) -> None:
        self._started_with = self._applied = started_with
        self._restart_needed: list[str] = []
        self.failed = False
        self.fingerprint = _fingerprint(started_with, started_with)

    @property
    def is_restart_needed(self) -> bool:
        """Whether the newest settings have changes that only a restart applies."""
        return bool(self._restart_needed)

    def to(self, settings: Settings) -> Reloaded:
        """Note that these settings are the newest, and return what that changes."""
        applied = [key for key in _changes(self._applied, settings) if _is_reloaded(key)]
        # Compared with the start: a change that was taken back needs no restart.
        self._restart_needed = [
            key for key in _changes(self._started_with, settings) if not _is_reloaded(key)
        ]
        self._applied, self.failed = settings, False
        self.fingerprint = _fingerprint(self._started_with, settings)
        return Reloaded(applied, self._restart_needed)


def _is_reloaded(key: str) -> bool:
    return any(f"{key}.".startswith(f"{each}.") for each in RELOADED)


def _fingerprint(started_with: Settings, newest: Settings) -> str:
    """Return a short hash of the settings in force; secrets are masked before it is taken."""
    # Copies that were made without validation, as in tests, have lists in place of tuples.
    in_force, reloaded = [
        settings.model_dump(mode="json", warnings=False) for settings in (started_with, newest)
    ]
    for key in RELOADED:
        *sections, name = key.split(".")
        reduce(getitem, sections, in_force)[name] = reduce(getitem, sections, reloaded)[name]
    # Machines have addresses of their own.
    for section in ("grpc", "http"):
        del in_force[section]["address"]
    return hashlib.sha256(json.dumps(in_force, sort_keys=True).encode()).hexdigest()[:12]


def _changes(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Yield the keys whose values differ, entries of tables included; lists count as a whole."""
    if before == after:
        return
    old, new = _entries(before), _entries(after)
    if old is None or new is None:
        yield key
        return
    for name in sorted(old.keys() | new.keys()):
        yield from _changes(old.get(name), new.get(name), f"{key}.{name}" if key else name)


def _entries(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Section):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else None
