"""Owns the settings of access and refresh tokens."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from authsvc.config.types import Duration, Section


class TokenSettings(Section):
    """Access and refresh tokens."""

    issuer: str = "https://authsvc.dev"
    audience: str = Field("authsvc", min_length=1, max_length=256)
    algorithm: Literal["ES256", "EdDSA", "RS256", "HS256"] = "ES256"
    access_lifetime: Duration = timedelta(hours=1)
    refresh_lifetime: Duration = timedelta(days=7)
    service_lifetime: Duration = timedelta(minutes=10)
    refresh_grace: Duration = timedelta(seconds=10)
    refresh_lost_answer: Literal["same_device", "strict"] = "same_device"
    clock_skew: Duration = timedelta(seconds=5)
    key_rotation_interval: Duration = timedelta(days=30)
    key_publish_lead: Duration = timedelta(hours=1)

    @model_validator(mode="after")
    def _lifetimes_are_sane(self) -> Self:
        if not timedelta(0) <= self.refresh_grace <= timedelta(seconds=300):
            raise ValueError("refresh_grace must be from 0s to 300s")
        lifetimes = (self.access_lifetime, self.refresh_lifetime, self.service_lifetime)
        if min(lifetimes) < timedelta(seconds=1):
            raise ValueError(
                "access_lifetime, refresh_lifetime and service_lifetime must be at least 1s"
            )
        return self
