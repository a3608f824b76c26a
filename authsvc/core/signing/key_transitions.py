"""Owns the state transitions of signing keys: each is one transaction, done by one replica at most.

`signing_keys.py` decides when one is due; here it is claimed, made and recorded.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.signing import key_set
from authsvc.core.signing.jwk import SigningKey
from authsvc.core.signing.signer import Signer
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.revocations import KeyRevocation
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store import revocations, token_validities
from authsvc.store import signing_keys as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.signing_keys import SigningKeyRow

log = structlog.get_logger(__name__)

# How long a replica may go on signing with a retired key before it learns of the retirement.
PROPAGATION_GRACE = timedelta(minutes=1)


class _NotPublishedLongEnough(Exception):
    """The next key may not sign yet, so nothing is replaced."""


@dataclass
class _NewKey:
    """A key that was just made; `is_stored` once it is, or may be, in the database."""

    key: SigningKey
    is_stored: bool = False


class KeyTransitions:
    """Moves signing keys from state to state; new keys use the algorithm in `settings`.

    Whatever activates a key publishes the next one in the same transaction. So the key that takes
    over, even from a revoked one, has usually been published for long.
    """

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        settings: TokenSettings,
        clock: Clock,
        signer: Signer,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._clock = clock
        self._signer = signer

    async def create_first(self, call: Call) -> None:
        """Create an active key, which signs at once, and the next one, unless one is active."""
        async with self._new_key() as first, self._new_key() as spare:
            now = self._clock.now()
            async with self._database.transaction() as conn:
                if await self._insert(conn, first, KeyState.ACTIVE, now):
                    await self._insert(conn, spare, KeyState.PREPARED, now)
                    await self._record_rotation(conn, call, first.key.key_id, now)

    async def prepare(self) -> None:
        """Create a key that is published and will sign next, unless there is one."""
        async with self._new_key() as new, self._database.connection() as conn:
            await self._insert(conn, new, KeyState.PREPARED, self._clock.now())

    async def replace(self, call: Call, active_key_id: str) -> None:
        """Retire this key and activate the next one, if it has been published for long enough.

        Nothing happens otherwise, or if the key is no longer active.
        """
        async with self._new_key() as spare:
            now = self._clock.now()
            with contextlib.suppress(_NotPublishedLongEnough):
                async with self._database.transaction() as conn:
                    expiry = await self._last_expiry(conn, now)
                    if not await store.retire(conn, active_key_id, now, expiry):
                        return
                    published_by = now - self._settings.key_publish_lead
                    key_id = await store.activate_prepared(
                        conn, self._settings.algorithm, now, published_by
                    )
                    if key_id is None:
                        raise _NotPublishedLongEnough
                    await self._insert(conn, spare, KeyState.PREPARED, now)
                    await self._record_rotation(conn, call, key_id, now)

    async def replace_now(self, call: Call, active_key_id: str) -> None:
        """Retire this key and activate the next one, however short it has been published."""
        async with self._new_key() as spare:
            now = self._clock.now()
            async with self._database.transaction() as conn:
                expiry = await self._last_expiry(conn, now)
                if await store.retire(conn, active_key_id, now, expiry):
                    key_id = await self._activate_next(conn, spare, now) or spare.key.key_id
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
        """Revoke a key, replacing it if it was active; it doesn't depend on the HSM."""
        async with contextlib.AsyncExitStack() as stack:
            spare: _NewKey | None = None
            with contextlib.suppress(StoreUnavailable):
                spare = await stack.enter_async_context(self._new_key())
            now = self._clock.now()
            async with self._database.transaction() as conn:
                expiry = await self._last_expiry(conn, now)
                was_active = await store.revoke(conn, key_id, now, expiry)
                if was_active is None:
                    return KeyRevocation(False, await revocations.cursor_of_now(conn))
                if was_active:
                    await self._activate_next(conn, spare, now)
                await revocations.append(conn, now, key_id=key_id)
                event = AuditEvent(AuditType.KEY_REVOKE, call, detail={"key_id": key_id})
                await record_event(conn, now, event)
                return KeyRevocation(True, await revocations.cursor_of_now(conn))

    async def remove_expired(self) -> None:
        """Remove retired and revoked keys whose last token has expired, and destroy their secrets.

        A key whose secret can't be destroyed now stays until it can.
        """
        now = self._clock.now()
        async with self._database.connection() as conn:
            rows = await store.list_all(conn)
        expired = [row for row in rows if row.info.expire_time and row.info.expire_time <= now]
        kept = [row.info.key_id for row in expired if not await self._destroy_of(row)]
        async with self._database.connection() as conn:
            await store.delete_expired(conn, now, kept)

    async def remove_prepared(self, key_id: str) -> None:
        """Remove a prepared key, which has never signed; do nothing if it isn't prepared."""
        async with self._database.connection() as conn:
            rows = {row.info.key_id: row for row in await store.list_all(conn)}
            removed = await store.delete_prepared(conn, key_id)
        if removed and key_id in rows:
            await self._destroy_of(rows[key_id])

    async def destroy_revoked(self, key_id: str) -> None:
        """Destroy the secret of a revoked key; if that fails, `remove_expired` tries again."""
        async with self._database.connection() as conn:
            rows = await store.list_all(conn)
        for row in rows:
            if row.info.key_id == key_id and row.info.state is KeyState.REVOKED:
                await self._destroy_of(row)

    async def _destroy_of(self, row: SigningKeyRow) -> bool:
        """Destroy the secret of a row's key; return False if it may still exist."""
        try:
            key = key_set.open_key(row, self._keyring)
        except (SealError, ValueError):
            return True  # nothing says where it is
        return await self._destroy(key)

    async def _destroy(self, key: SigningKey) -> bool:
        try:
            await self._signer.destroy(key)
        except StoreUnavailable as error:
            log.warning("signing_key_not_destroyed", key_id=key.key_id, cause=error.message)
            return False
        return True

    async def _activate_next(
        self, conn: Connection, spare: _NewKey | None, now: datetime
    ) -> str | None:
        """Activate the prepared key and publish `spare`, or activate `spare` if there is none.

        Return the id of the key that is active now. What is missing without a spare is made by
        `SigningKeys.maintain`. `conn` has just deactivated the active key.
        """
        key_id = await store.activate_prepared(conn, self._settings.algorithm, now)
        if spare is None:
            return key_id
        await self._insert(conn, spare, KeyState.PREPARED if key_id else KeyState.ACTIVE, now)
        return key_id or spare.key.key_id

    @contextlib.asynccontextmanager
    async def _new_key(self) -> AsyncIterator[_NewKey]:
        """Make a key, and destroy its secret at the end unless it was stored.

        If an error leaves that open, the secret stays: the database may have stored the key.
        """
        new = _NewKey(await self._signer.generate(self._settings.algorithm))
        try:
            yield new
        finally:
            if not new.is_stored:
                await self._destroy(new.key)

    async def _insert(self, conn: Connection, new: _NewKey, state: KeyState, now: datetime) -> bool:
        # Before the answer: without one, it may be stored nevertheless.
        new.is_stored = True
        new.is_stored = await store.insert(conn, self._row(new.key, state, now))
        return new.is_stored

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

    async def _last_expiry(self, conn: Connection, now: datetime) -> datetime:
        """Return the time by which the last token of a key that retires now has expired.

        It may have been issued when lifetimes were longer.
        """
        longest = await token_validities.longest(conn, now)
        return now + max(longest, self._settings.longest_validity + PROPAGATION_GRACE)
