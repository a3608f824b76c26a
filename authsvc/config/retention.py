"""Owns the settings of data retention."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from authsvc.config.types import Between, Duration, Section


class RetentionSettings(Section):
    """How long data is kept after it has ended."""

    sessions: Duration = Field(timedelta(days=30), description="Ended sessions.")
    api_keys: Duration = Field(timedelta(days=90), description="Ended API keys.")
    revocations: Duration = Field(
        timedelta(days=31),
        description="The revocation log; at least as long as issued tokens are valid.",
    )
    audit_events: Duration = Field(timedelta(days=400), description="Audit events.")
    devices: Duration = Field(timedelta(days=180), description="Devices that weren't used.")
    messages: Duration = Field(
        timedelta(days=7), description="Messages that were sent or given up."
    )
    addresses: Annotated[Duration, Between("1d")] | None = Field(
        None,
        description="Whole IP addresses of sessions and audit events; older ones are truncated to"
        " their network, /24 (IPv4) or /48 (IPv6): see below.",
    )
    unverified_accounts: Annotated[Duration, Between("1d")] | None = Field(
        None, description="Accounts that nobody ever verified: see below."
    )
    # Replicas must have read that a block was lifted before its row is gone.
    ip_blocks: Annotated[Duration, Between("5m")] = Field(
        timedelta(days=1), description="Ended blocks of addresses."
    )
    interval: Annotated[Duration, Between("1ms")] = Field(
        timedelta(minutes=5), description="About how often each replica cleans up."
    )
    batch_size: int = Field(500, ge=1, le=10_000, description="Rows removed by one statement.")
