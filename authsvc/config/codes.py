"""Owns the settings of one-time codes."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from authsvc.config.limits import PolicySettings
from authsvc.config.types import Between, Duration, Section


class CodeSettings(Section):
    """One-time codes: how long they are valid, and how often they may be tried and sent."""

    lifetime: Annotated[Duration, Between("30s", "10m")] = Field(
        timedelta(minutes=10), description="How long a code is valid."
    )
    verification_lifetime: Annotated[Duration, Between("1m", "7d")] = Field(
        timedelta(hours=24), description="The same for a code that verifies an address."
    )
    max_attempts: int = Field(
        5,
        ge=1,
        le=10,
        description=(
            "How often a code may be tried from one network, as `brute_force.ipv4_prefix` and"
            " `ipv6_prefix` say; a reset code has no limit."
        ),
    )
    # 50 of 10**8 codes: a guess succeeds at most once in two million.
    max_attempts_in_all: int = Field(
        50, ge=1, le=50, description="How often a code may be tried from all networks together."
    )
    resend_interval: Annotated[Duration, Between("0s", "1h")] = Field(
        timedelta(seconds=60),
        description="How soon another code of the same kind can be requested.",
    )
    requests_per_address: PolicySettings = Field(
        PolicySettings(requests=5, window=timedelta(hours=1)),
        description=(
            "Codes requested for one address, those for password resets and all others apart."
        ),
    )
    requests_per_ip: PolicySettings = Field(
        PolicySettings(requests=30, window=timedelta(hours=1)),
        description="Codes requested from one network.",
    )
    require_verified_email: bool = Field(
        False,
        description="Whether logins fail with `EMAIL_NOT_VERIFIED` until the address is verified.",
    )

    @model_validator(mode="after")
    def _attempts_fit(self) -> Self:
        if self.max_attempts > self.max_attempts_in_all:
            raise ValueError("max_attempts must be at most max_attempts_in_all")
        return self
