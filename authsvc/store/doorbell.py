"""Owns the doorbell's channels: marking what to ring after the commit, ringing, and listening.

A notification within a transaction would hold a lock of the whole server until the transaction's
flush, one after the other for all of them. In a statement of its own it writes nothing that is
flushed.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.connector import FAILURES, Connection, Connector, as_pool_connection


class Channel(StrEnum):
    """What a ring is about."""

    REVOCATIONS = "authsvc_revocations"
    OUTBOX = "authsvc_outbox"
    LOGIN_FREEZES = "authsvc_login_freezes"
    IP_BLOCKS = "authsvc_ip_blocks"
    DEFINITIONS = "authsvc_definitions"


def ring_after_commit(connection: Connection, channel: Channel) -> None:
    """Let the doorbell ring once what was done on this connection is committed."""
    own = as_pool_connection(connection)
    if own:
        own.rings |= {channel}


_NOTIFY = "SELECT pg_notify(channel, $2) FROM unnest($1::text[]) AS channel"


async def notify(connection: Connection, channels: Iterable[str], sender: str) -> None:
    """Notify the listeners of these channels; must not be called within a transaction."""
    await connection.execute(_NOTIFY, sorted(channels), sender)


_CONFIRM = "SELECT"


class PoolerError(Exception):
    """A pooler shares the connection to PostgreSQL, so notifications would get lost."""


class Subscription:
    """One connection that listens on all channels, from `open` until it fails."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls,
        settings: DatabaseSettings,
        receive: Callable[[Channel, str], None],
        on_close: Callable[[], None],
    ) -> "Subscription":
        """Connect and pass on every notification as its channel and sender.

        `on_close` is called when the connection ends.

        Raises StoreUnavailable, and PoolerError if nothing would be received.
        """
        address = settings.listener_url or settings.url
        connector = Connector(
            address=address.get_secret_value(),
            timeout=settings.connect_timeout.total_seconds(),
            command_timeout=settings.command_timeout.total_seconds(),
        )
        try:
            connection = await connector.connect()
        except (*FAILURES, ValueError) as error:
            raise StoreUnavailable from error
        if not connection.is_direct:
            connection.terminate()
            raise PoolerError
        try:
            connection.add_termination_listener(lambda _: on_close())
            for channel in Channel:
                await connection.add_listener(
                    channel, lambda *event, channel=channel: receive(channel, str(event[-1]))
                )
        except BaseException as error:
            connection.terminate()
            if isinstance(error, FAILURES):
                raise StoreUnavailable from error
            raise
        return cls(connection)

    async def confirm(self) -> None:
        """Return if the server still answers on this connection; raises StoreUnavailable."""
        try:
            await self._connection.execute(_CONFIRM)
        except FAILURES as error:
            raise StoreUnavailable from error

    def close(self) -> None:
        """Close the connection without waiting for the server."""
        self._connection.terminate()
