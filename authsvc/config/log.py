"""Owns the settings of the log."""

from typing import Literal

from pydantic import Field

from authsvc.config.types import Section


class LogSettings(Section):
    """The log: one line of JSON per event, or readable lines on a terminal."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What is logged."
    )
    format: Literal["auto", "json", "pretty"] = Field(
        "auto", description="`auto` means readable lines on a terminal and JSON elsewhere."
    )
