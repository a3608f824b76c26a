"""Owns connecting to PostgreSQL: host after host, each with its own timeout."""

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# The errors of connecting and of a broken connection. asyncpg also reports misuse by the last two;
# on a connection that nobody else uses, they mean that the server has closed it.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_DEFAULT_TIMEOUT = 5.0


class Connector:
    """Connects to the first host of `address` that accepts.

    `timeout` is in seconds, for each host: asyncpg's own is for all of them together, so that a
    silent host would keep it from ever trying the next. The host that worked last is tried first.
    """

    def __init__(
        self,
        *,
        address: str,
        timeout: float = _DEFAULT_TIMEOUT,
        command_timeout: float | None = None,
        statement_cache_size: int = 0,
    ) -> None:
        self._hosts = _single_hosts(address)
        self._timeout = timeout
        self._command_timeout = command_timeout
        self._statement_cache_size = statement_cache_size

    async def connect(self) -> Connection:
        """Return a new connection.

        Raises the last host's failure: OSError (which includes TimeoutError),
        asyncpg.PostgresError, asyncpg.InternalClientError if no host has the target_session_attrs
        of the address, or ValueError if the address is malformed.
        """
        failure: Exception | None = None
        for host in tuple(self._hosts):
            try:
                connection = await self._connect(host)
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                failure = error
                continue
            self._hosts.remove(host)
            self._hosts.insert(0, host)
            return connection
        raise failure or ValueError("the address names no host")

    async def _connect(self, host: str) -> Connection:
        return await asyncpg.connect(
            host,
            timeout=self._timeout,
            command_timeout=self._command_timeout,
            statement_cache_size=self._statement_cache_size,
            server_settings={"application_name": "authsvc"},
        )


def _single_hosts(address: str) -> list[str]:
    try:
        parts = urlsplit(address)
    except ValueError:
        # asyncpg rejects it when it is used, like every other malformed address.
        return [address]
    login, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]
