"""Owns the state transitions of signing keys: each is one transaction, done by one replica at most.

`signing_keys.py` decides when one is due; here it is claimed, made and recorded.
"""

import asyncio
import contextlib
from datetime import datetime, timedelta

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring
from authsvc.core.signing import jwk, key_set
from authsvc.core.signing.jwk import SigningKey
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.revocations import KeyRevocation
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store import revocations
from authsvc.store import signing_keys as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.signing_keys import SigningKeyRow

# How long a replica may go on signing with a retired key before it learns of the retirement.
PROPAGATION_GRACE = timedelta(minutes=1)


class _NotPublishedLongEnough(Exception):
    """The next key may not sign yet, so nothing is replaced."""


class KeyTransitions:
    """Moves signing keys from state to state; new keys use the algorithm in `settings`.

    Whatever activates a key publishes the next one in the same transaction. So the key that takes
    over, even from a revoked one, has usually been published for long.
    """

    def __init__(
        self, *, database: Database, keyring: Keyring, settings: TokenSettings, clock: Clock
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._clock = clock

    async def create_first(self, call: Call) -> None:
        """Create an active key, which signs at once, and the next one, unless one is active."""
        first, spare = await self._new_key(), await self._new_key()
        now = self._clock.now()
        async with self._database.transaction() as conn:
            if await store.insert(conn, self._row(first, KeyState.ACTIVE, now)):
                await store.insert(conn, self._row(spare, KeyState.PREPARED, now))
                await self._record_rotation(conn, call, first.key_id, now)

    async def prepare(self) -> None:
        """Create a key that is published and will sign next, unless there is one."""
        key = await self._new_key()
        async with self._database.connection() as conn:
            await store.insert(conn, self._row(key, KeyState.PREPARED, self._clock.now()))

    async def replace(self, call: Call, active_key_id: str) -> None:
        """Retire this key and activate the next one, if it has been published for long enough.

        Nothing happens otherwise, or if the key is no longer active.
        """
        spare = await self._new_key()
        now = self._clock.now()
        with contextlib.suppress(_NotPublishedLongEnough):
            async with self._database.transaction() as conn:
                if not await store.retire(conn, active_key_id, now, self._last_expiry(now)):
                    return
                published_by = now - self._settings.key_publish_lead
                key_id = await store.activate_prepared(
                    conn, self._settings.algorithm, now, published_by
                )
                if key_id is None:
                    raise _NotPublishedLongEnough
                await store.insert(conn, self._row(spare, KeyState.PREPARED, now))
                await self._record_rotation(conn, call, key_id, now)

    async def replace_now(self, call: Call, active_key_id: str) -> None:
        """Retire this key and activate the next one, however short it has been published."""
        spare = await self._new_key()
        now = self._clock.now()
        async with self._database.transaction() as conn:
            if await store.retire(conn, active_key_id, now, self._last_expiry(now)):
                key_id = await self._activate_next(conn, spare, now)
                await self._record_rotation(conn, call, key_id, now)

    async def request_rotation(self, call: Call, active_key_id: str) -> None:
        """Note that this key is to be replaced, unless that is noted or it is no longer active."""
        now = self._clock.now()
        async with self._database.transaction() as conn:
            if await store.request_rotation(conn, active_key_id, now):
                detail = {"key_id": active_key_id}
                event = AuditEvent(AuditType.KEY_REQUEST_ROTATION, call, detail=detail)
                await record_event(conn, now, event)

    async def revoke(self, call: Call, key_id: str) -> KeyRevocation:
        """Revoke a key, replacing it if it was active."""
        spare = await self._new_key()
        now = self._clock.now()
        async with self._database.transaction() as conn:
            was_active = await store.revoke(conn, key_id, now, self._last_expiry(now))
            if was_active is None:
                return KeyRevocation(False, await revocations.cursor_of_now(conn))
            if was_active:
                await self._activate_next(conn, spare, now)
            await revocations.append(conn, now, key_id=key_id)
            event = AuditEvent(AuditType.KEY_REVOKE, call, detail={"key_id": key_id})
            await record_event(conn, now, event)
            return KeyRevocation(True, await revocations.cursor_of_now(conn))

    async def remove_expired(self) -> None:
        """Remove retired and revoked keys whose last token has expired."""
        async with self._database.connection() as conn:
            await store.delete_expired(conn, self._clock.now())

    async def remove_prepared(self, key_id: str) -> None:
        """Remove a prepared key, which has never signed; do nothing if it isn't prepared."""
        async with self._database.connection() as conn:
            await store.delete_prepared(conn, key_id)

    async def _activate_next(self, conn: Connection, spare: SigningKey, now: datetime) -> str:
        """Activate the prepared key and publish `spare`, or activate `spare` if there is none.

        `conn` has just deactivated the active key.
        """
        key_id = await store.activate_prepared(conn, self._settings.algorithm, now)
        state = KeyState.PREPARED if key_id else KeyState.ACTIVE
        await store.insert(conn, self._row(spare, state, now))
        return key_id or spare.key_id

    async def _new_key(self) -> SigningKey:
        # In a thread, because generating an RSA key takes long enough to delay other calls.
        return await asyncio.to_thread(jwk.generate, self._settings.algorithm)

    def _row(self, key: SigningKey, state: KeyState, now: datetime) -> SigningKeyRow:
        info = SigningKeyInfo(
            key_id=key.key_id,
            algorithm=key.algorithm,
            state=state,
            create_time=now,
            activate_time=now if state is KeyState.ACTIVE else None,
        )
        return SigningKeyRow(info, key_set.seal(key, self._keyring))

    async def _record_rotation(
        self, conn: Connection, call: Call, key_id: str, now: datetime
    ) -> None:
        detail = {"key_id": key_id, "algorithm": self._settings.algorithm}
        await record_event(conn, now, AuditEvent(AuditType.KEY_ROTATE, call, detail=detail))

    def _last_expiry(self, now: datetime) -> datetime:
        """Return the time by which the last token of a key that retires now has expired."""
        return now + self._settings.longest_validity + PROPAGATION_GRACE
