"""Owns the settings of user imports."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from authsvc.config.types import Between, Duration, Section


class ImportSettings(Section):
    """Limits of a user import, and how many may run at once through the API."""

    max_rows: int = Field(1_000_000, ge=1, description="Rows of one import.")
    max_row_bytes: int = Field(16_384, ge=1_024, le=131_072, description="Bytes of one row.")
    max_file_bytes: int = Field(4_294_967_296, ge=1, description="Bytes of one import.")
    max_parallel: int = Field(
        2, ge=1, le=16, description="Imports through the API at a time, on each replica."
    )
    idle_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=30), description="How long the next part of a file may take."
    )
