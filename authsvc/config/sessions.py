"""Owns the settings of sessions."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from authsvc.config.types import Duration, Section


class SessionSettings(Section):
    """Sessions: their lifetime, number, binding and caching."""

    absolute_lifetime: Duration = timedelta(days=30)
    max_per_user: int = Field(5, ge=1, le=1_000)
    ip_binding: Literal["off", "subnet", "exact"] = "off"
    user_agent_binding: bool = False
    last_use_interval: Duration = timedelta(minutes=1)
    cache_size: int = Field(50_000, ge=0)
    cache_staleness: Duration = timedelta(seconds=1)
