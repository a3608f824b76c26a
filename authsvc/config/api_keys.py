"""Owns the settings of API keys."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from authsvc.config.limits import PolicyName
from authsvc.config.types import Duration, Section


class ApiKeySettings(Section):
    """API keys of users."""

    prefix: str = Field("authsvc", pattern=r"^[a-z][a-z0-9]{1,15}$")
    max_per_user: int = Field(20, ge=1, le=1_000)
    max_lifetime: Duration = timedelta(days=365)
    policy: PolicyName | None = None
    last_use_interval: Duration = timedelta(minutes=1)
    cache_size: int = Field(50_000, ge=0)

    @model_validator(mode="after")
    def _lifetime_is_sane(self) -> Self:
        if not timedelta(minutes=1) <= self.max_lifetime <= timedelta(days=3_650):
            raise ValueError("max_lifetime must be from 1m to 3650d")
        return self
