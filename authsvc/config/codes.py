"""Owns the settings of one-time codes."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from authsvc.config.limits import PolicySettings
from authsvc.config.types import Duration, Section


class CodeSettings(Section):
    """One-time codes: how long they are valid, and how often they may be tried and sent."""

    lifetime: Duration = timedelta(minutes=10)
    verification_lifetime: Duration = timedelta(hours=24)
    max_attempts: int = Field(5, ge=1, le=10, description="Per client network.")
    # 50 of 10**8 codes: a guess succeeds at most once in two million.
    max_attempts_in_all: int = Field(50, ge=1, le=50)
    resend_interval: Duration = timedelta(seconds=60)
    requests_per_address: PolicySettings = PolicySettings(requests=5, window=timedelta(hours=1))
    requests_per_ip: PolicySettings = PolicySettings(requests=30, window=timedelta(hours=1))
    require_verified_email: bool = Field(
        default=False, description="Reject logins until the e-mail address is verified."
    )

    @model_validator(mode="after")
    def _lifetimes_are_sane(self) -> Self:
        # ASVS 6.5.5: codes that authenticate are valid for at most ten minutes.
        if not timedelta(seconds=30) <= self.lifetime <= timedelta(minutes=10):
            raise ValueError("lifetime must be from 30s to 10m")
        if not timedelta(minutes=1) <= self.verification_lifetime <= timedelta(days=7):
            raise ValueError("verification_lifetime must be from 1m to 7d")
        if self.max_attempts > self.max_attempts_in_all:
            raise ValueError("max_attempts must be at most max_attempts_in_all")
        if not timedelta() <= self.resend_interval <= timedelta(hours=1):
            raise ValueError("resend_interval must be from 0s to 1h")
        return self
