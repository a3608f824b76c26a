"""Owns the settings of the database: its URL, the pool, and the timeouts of both."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from authsvc.config.database_address import DatabaseAddress
from authsvc.config.types import Duration, Section

_POSITIVE = Field(gt=timedelta(0))


class DatabaseSettings(Section):
    """PostgreSQL: its URL, the pool, and the timeouts of both."""

    url: SecretStr
    listener_url: SecretStr | None = None
    pool_min: int = Field(2, ge=0)
    pool_max: int = Field(16, ge=1)
    connect_timeout: Annotated[Duration, _POSITIVE] = timedelta(seconds=5)
    acquire_timeout: Annotated[Duration, _POSITIVE] = timedelta(seconds=3)
    command_timeout: Annotated[Duration, _POSITIVE] = timedelta(seconds=5)
    lock_timeout: Annotated[Duration, _POSITIVE] = timedelta(seconds=1)
    statement_cache_size: int = Field(256, ge=0)

    @field_validator("url", "listener_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            DatabaseAddress.parse(url.get_secret_value())
        return url

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
