"""Owns the receipts of create requests, by which a repeated request creates nothing twice.

A request carries an id that its sender chose (AIP-155). The receipt is stored in the transaction
that creates something, so there is one exactly if that was created. It is stored first: if the same
request is being carried out at this moment, the second one waits there, and finds the receipt.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from authsvc.core.lib.sealing import Keyring
from authsvc.errors import request_id_reused
from authsvc.models.clock import Clock
from authsvc.store import request_receipts as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.request_receipts import Receipt

# At least this long, the same request is answered with what it made.
RECEIPT_LIFETIME: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A request to create something; `content` is all of it, and the method it was sent to."""

    request_id: UUID
    content: bytes = field(repr=False)


class RequestReceipts:
    """Finds and stores receipts; a request of None has no id, and so never has one."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        # Newest first: receipts made with an older key are still recognized.
        self._keys = keyring.derive("request-receipts")
        self._clock = clock

    async def find(self, request: CreateRequest | None) -> str | None:
        """Return the id of what the request made before, or None if it is new.

        Only spares work: `claim` decides.

        Raises:
            FieldInvalid: REQUEST_ID_REUSED: another request had this id.
        """
        if request is None:
            return None
        async with self._database.connection() as connection:
            return self._made(request, await store.find(connection, request.request_id))

    async def claim(
        self, connection: Connection, request: CreateRequest | None, made: str
    ) -> str | None:
        """Store the receipt of a request that is about to create `made`; return None.

        If it was carried out before, return what it made then: the caller creates nothing. Call it
        first in the transaction that creates `made`.

        Raises:
            FieldInvalid: REQUEST_ID_REUSED: another request had this id.
        """
        if request is None:
            return None
        receipt = Receipt(self._fingerprint(self._keys[0], request), made)
        if await store.insert(connection, request.request_id, receipt, self._clock.now()):
            return None
        return self._made(request, await store.find(connection, request.request_id))

    def _made(self, request: CreateRequest, receipt: Receipt | None) -> str | None:
        if receipt is None:
            return None
        for key in self._keys:
            if hmac.compare_digest(self._fingerprint(key, request), receipt.fingerprint):
                return receipt.made
        raise request_id_reused()

    def _fingerprint(self, key: bytes, request: CreateRequest) -> bytes:
        """Return a keyed hash of the request, as it may contain a password."""
        return hmac.digest(key, request.content, hashlib.sha256)
