"""Owns where policies and roles are defined."""

from enum import StrEnum


class DefinedIn(StrEnum):
    """Where something is defined, and so how it can be changed."""

    SETTINGS = "settings"
    RUN_TIME = "run_time"
