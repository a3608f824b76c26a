"""Owns the settings of sessions."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from authsvc.config.cookies import CookieSettings
from authsvc.config.types import Between, Distinct, Duration, RoleName, Section


class SessionSettings(Section):
    """Sessions: their lifetime, number, binding, caching, cookie and impersonation."""

    absolute_lifetime: Annotated[Duration, Between("1s")] = Field(
        timedelta(days=30), description="How long a session lasts however much it is used."
    )
    max_per_user: int = Field(
        5, ge=1, le=1_000, description="Active sessions of a user; a new one ends the oldest."
    )
    max_keys: int = Field(
        16, ge=1, le=1_000, description="Live session keys of one session (IssueSessionKey)."
    )
    ip_binding: Literal["off", "subnet", "exact"] = Field(
        "off",
        description=(
            "Whether a session works only from its own address (`exact`) or network (`subnet`:"
            " /24 for IPv4, /64 for IPv6), or from one of the other family that its user has logged"
            " in from on the same device."
        ),
    )
    user_agent_binding: bool = Field(
        False, description="Whether a session works only with its user agent."
    )
    last_use_interval: Duration = Field(
        timedelta(minutes=1), description="How precisely the last use is recorded."
    )
    cache_size: int = Field(
        50_000,
        ge=0,
        description="Sessions cached by each replica, about 2 KiB each; 0 turns the cache off.",
    )
    cache_staleness: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=1),
        description=(
            "How late a replica may learn of a revocation; a replica that can't guarantee this"
            " bypasses its caches."
        ),
    )
    cookie: CookieSettings | None = Field(
        None,
        description="The cookie for browsers; if it is set, answers that open a session carry a"
        " ready `set_cookie`.",
    )
    impersonation_lifetime: Annotated[Duration, Between("1s", "1h")] = Field(
        timedelta(minutes=15), description="How long a session opened by ImpersonateUser lasts."
    )
    impersonation_roles: Distinct[RoleName] = Field(
        frozenset({"user"}),
        description="Users with any role that is not one of these can't be impersonated.",
    )
