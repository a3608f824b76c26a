"""Owns the settings of the database: its URL, the pool, and the timeouts of both."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from authsvc.config.database_address import DatabaseAddress
from authsvc.config.types import Between, Duration, Section

# The readers of revocations, blocks and audit events, and the listener.
OUTSIDE_POOL = 4


class DatabaseSettings(Section):
    """PostgreSQL: its URL, the pool, and the timeouts of both."""

    url: SecretStr = Field(
        description="The [address](#addresses): `postgresql://…`, or `host=… password=…`."
    )
    listener_url: SecretStr | None = Field(
        None,
        description=(
            "A direct address for notifications and migrations, where `database.url` is a"
            " pooler; without it, revocations and messages are polled for."
        ),
    )
    pool_min: int = Field(2, ge=0, description="Connections that are kept open.")
    pool_max: int = Field(
        16,
        ge=1,
        description=(
            "The maximum number of connections of a replica; four more are used for reading"
            " revocations, blocks of addresses and audit events, and for notifications."
        ),
    )
    connect_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=5), description="How long connecting to a host may take."
    )
    acquire_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=3), description="How long a call waits for a free connection."
    )
    command_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=5),
        description=(
            "How long a statement may take, and how long a replica may be silent within a"
            " transaction before the server ends it."
        ),
    )
    lock_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=1),
        description=(
            "How long a call waits for a row that another one holds; a migration waits half as"
            " long."
        ),
    )
    statement_cache_size: int = Field(
        256, ge=0, description="Statements that each connection remembers."
    )

    @field_validator("url", "listener_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            DatabaseAddress.parse(url.get_secret_value())
        return url

    @property
    def connections(self) -> int:
        """How many connections a replica opens at most, with those that are not the pool's."""
        return self.pool_max + OUTSIDE_POOL

    @property
    def notes(self) -> list[str]:
        """What the addresses have that the service leaves out: sentences for the operator."""
        urls = {"url": self.url, "listener_url": self.listener_url}
        return [
            f"database.{name}: {note}"
            for name, url in urls.items()
            if url is not None
            for note in DatabaseAddress.parse(url.get_secret_value()).notes
        ]
