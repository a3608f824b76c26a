"""Owns the revocation log: appending to it, and listening for what others append."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.store.postgres.connector import FAILURES, Connection, Connector

# The trigger on the table notifies this channel for each row.
_CHANNEL = "authsvc_revocations"

_INSERT = """
INSERT INTO revocations (session_id, user_id, key_id, api_key_id, revoke_time)
SELECT session_id, user_id, key_id, api_key_id, $5
FROM (SELECT unnest($1::uuid[]), NULL::uuid, NULL::text, NULL::uuid
      UNION ALL SELECT NULL, $2::uuid, NULL, NULL WHERE $2 IS NOT NULL
      UNION ALL SELECT NULL, NULL, $3::text, NULL WHERE $3 IS NOT NULL
      UNION ALL SELECT NULL, NULL, NULL, $4::uuid WHERE $4 IS NOT NULL
     ) AS revoked (session_id, user_id, key_id, api_key_id)
"""
_CONFIRM = "SELECT pg_backend_pid()"
_NO_OTHERS: Mapping[str, Callable[[], None]] = MappingProxyType({})


async def append(
    connection: Connection,
    now: datetime,
    *,
    session_ids: Sequence[SessionId] = (),
    user_id: UserId | None = None,
    key_id: str | None = None,
    api_key_id: ApiKeyId | None = None,
) -> None:
    """Append revocations; every replica is notified once the transaction has committed.

    A `user_id` revokes everything that the user has; `key_id` is a signing key.
    """
    await connection.execute(_INSERT, session_ids, user_id, key_id, api_key_id, now)


class PoolerError(Exception):
    """A pooler shares the connection to PostgreSQL, so notifications would get lost."""


class Subscription:
    """One connection that listens for revocations, from `open` until it fails.

    Nothing is replayed: revocations committed before `open` returned are not received.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls,
        settings: DatabaseSettings,
        receive: Callable[[str], None],
        *,
        patience: float,
        others: Mapping[str, Callable[[], None]] = _NO_OTHERS,
    ) -> "Subscription":
        """Connect and pass every payload to `receive`; each statement gets `patience` seconds.

        `others` are called for notifications on their channels, which saves connections.

        Raises StoreUnavailable.
        """
        address = settings.listener_url or settings.url
        connector = Connector(
            address=address.get_secret_value(),
            timeout=settings.connect_timeout.total_seconds(),
            command_timeout=patience,
        )
        try:
            connection = await connector.connect()
        except (*FAILURES, ValueError) as error:
            raise StoreUnavailable from error
        try:
            await connection.add_listener(_CHANNEL, lambda *event: receive(event[-1]))
            for channel, tell in others.items():
                await connection.add_listener(channel, lambda *_, tell=tell: tell())
        except BaseException as error:
            connection.terminate()
            if isinstance(error, FAILURES):
                raise StoreUnavailable from error
            raise
        return cls(connection)

    async def confirm(self) -> None:
        """Return when everything committed before this call has been passed on.

        PostgreSQL sends a session its notifications before it answers the session's statement, and
        acknowledges a commit after signalling the listeners. Raises StoreUnavailable if there is no
        answer in time and PoolerError if it comes from another session.
        """
        try:
            process = await self._connection.fetchval(_CONFIRM)
        except FAILURES as error:
            raise StoreUnavailable from error
        # A pooler gives its clients an invented process id.
        if process != self._connection.get_server_pid():
            raise PoolerError

    def close(self) -> None:
        """Close the connection without waiting for the server."""
        self._connection.terminate()
