"""Owns the settings of user imports."""

from datetime import timedelta

from pydantic import Field

from authsvc.config.types import Duration, Section


class ImportSettings(Section):
    """Limits of a user import, and how many may run at once through the API."""

    max_rows: int = Field(1_000_000, ge=1)
    max_row_bytes: int = Field(16_384, ge=1_024, le=131_072)
    max_file_bytes: int = Field(4_294_967_296, ge=1)
    max_parallel: int = Field(2, ge=1, le=16)
    idle_timeout: Duration = Field(
        timedelta(seconds=30), description="How long to wait for the next part of a file."
    )
