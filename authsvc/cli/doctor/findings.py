"""Owns what a check finds: its level, what was looked at, what is wrong, and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: `text` says what was seen or what is wrong, `remedy` what to do about it.

    Neither quotes a secret. The text of a skipped check says why it was skipped.
    """

    level: Level
    text: str
    remedy: str = ""


class Skip(Exception):
    """A check can't be made; the message says why."""


def ok(text: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(Level.OK, text)


def warning(text: str, remedy: str) -> Finding:
    """Return a finding of something that works, but may not be meant or may not last."""
    return Finding(Level.WARNING, text, remedy)


def error(text: str, remedy: str) -> Finding:
    """Return a finding of something that does not work, or not safely."""
    return Finding(Level.ERROR, text, remedy)


def skipped(reason: str) -> Finding:
    """Return a finding of something that was not looked at."""
    return Finding(Level.SKIPPED, reason)
