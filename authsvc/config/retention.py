"""Owns the settings of data retention."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from authsvc.config.types import Duration, Section


class RetentionSettings(Section):
    """How long data is kept after it has ended."""

    sessions: Duration = timedelta(days=30)
    api_keys: Duration = timedelta(days=90)
    revocations: Duration = timedelta(days=31)
    audit_events: Duration = timedelta(days=400)
    devices: Duration = timedelta(days=180)
    messages: Duration = timedelta(days=7)
    unverified_accounts: Duration | None = Field(
        None,
        description="Age at which unverified accounts without a login are removed; unset: never.",
    )
    interval: Duration = timedelta(minutes=5)
    batch_size: int = Field(500, ge=1, le=10_000)

    @model_validator(mode="after")
    def _period_is_sane(self) -> Self:
        period = self.unverified_accounts
        if period is not None and period < timedelta(days=1):
            raise ValueError("unverified_accounts must be at least 1d")
        return self
