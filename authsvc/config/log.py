"""Owns the settings of the log."""

from typing import Literal

from authsvc.config.types import Section


class LogSettings(Section):
    """The log: one line of JSON per event, or readable lines on a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"
