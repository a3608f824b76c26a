"""Owns the settings of API keys."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from authsvc.config.limits import PolicyName
from authsvc.config.types import Between, Duration, Form, Section


class ApiKeySettings(Section):
    """API keys of users."""

    prefix: Annotated[
        str, Form("[a-z][a-z0-9]{1,15}", "2 to 16 lower-case letters and digits, a letter first")
    ] = Field(
        "authsvc",
        description="What keys start with: 2 to 16 lower-case letters and digits.",
    )
    max_per_user: int = Field(20, ge=1, le=1_000, description="Active keys of a user.")
    max_lifetime: Annotated[Duration, Between("1m", "3650d")] = Field(
        timedelta(days=365), description="The longest and the default lifetime of a key."
    )
    policy: PolicyName | None = Field(
        None, description="The rate-limit policy of keys that name none."
    )
    last_use_interval: Duration = Field(
        timedelta(minutes=1), description="How precisely the last use is recorded."
    )
    cache_size: int = Field(
        50_000, ge=0, description="Keys cached by each replica; 0 turns the cache off."
    )
