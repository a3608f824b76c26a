"""Owns the settings of imports of users."""

from datetime import timedelta

from pydantic import Field

from authsvc.config.types import Duration, Section


class ImportSettings(Section):
    """What an import of users may cost, and how many may run at once through the API."""

    max_rows: int = Field(1_000_000, ge=1)
    max_row_bytes: int = Field(16_384, ge=1_024, le=131_072)
    max_file_bytes: int = Field(4_294_967_296, ge=1)
    max_parallel: int = Field(2, ge=1, le=16)
    idle_timeout: Duration = Field(
        timedelta(seconds=30), description="How long the next part of a file may take to come."
    )
