"""Owns the settings of blocked addresses."""

from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated

from pydantic import Field

from authsvc.config.limits import PolicySettings
from authsvc.config.types import Between, Distinct, Duration, NetworkText, Section
from authsvc.models.ip_blocks import Network
from authsvc.models.limits import Algorithm


class BlockSettings(Section):
    """When addresses are blocked, and which never are."""

    automatic: bool = Field(
        True, description="Whether addresses with too many violations are blocked: see below."
    )
    violations: PolicySettings = Field(
        PolicySettings(
            requests=10, window=timedelta(minutes=10), algorithm=Algorithm.SLIDING_WINDOW
        ),
        description="The violations of one network that don't lead to a block yet.",
    )
    duration: Annotated[Duration, Between("1s", "366d")] = Field(
        timedelta(hours=1), description="How long an automatic block lasts."
    )
    allow: Distinct[NetworkText] = Field(
        frozenset(), description="Addresses and networks that are never blocked."
    )
    max_blocks: int = Field(
        1_000_000,
        ge=1,
        le=10_000_000,
        description="The most blocks; each takes up to 40 bytes of every replica's memory.",
    )

    def allowed_networks(self) -> list[Network]:
        """Return the networks that are never blocked."""
        return [ip_network(text, strict=False) for text in sorted(self.allow)]
