"""Owns the life cycle of signing keys: prepared, active, retired, removed; or revoked at once.

Every replica runs this and keeps the keys in memory. A key is published `key_publish_lead` before
it signs, and a token signed by a key not read yet makes the process read the keys (`learn`).
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import structlog

from authsvc.config import TokenSettings
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.lib.single_flight import SingleFlight
from authsvc.core.signing import key_set
from authsvc.core.signing.jwk import SigningKey, VerifyingKey
from authsvc.core.signing.key_set import KeySet
from authsvc.core.signing.key_transitions import PROPAGATION_GRACE, KeyTransitions
from authsvc.errors import StoreUnavailable, signing_key_not_found
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.revocations import KeyRevocation, Revocation
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store import signing_keys as store
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe

log = structlog.get_logger(__name__)

_SYSTEM = Call(request_id="", caller="system")
_POLL = PROPAGATION_GRACE / 2
_KEY_ID_LENGTH = 43
_LEARN_INTERVAL = 0.05


class SigningKeys:
    """The signing keys, read into memory by `load` and kept up to date by `run`.

    `is_fresh` returns whether this replica is receiving revocations. While it is not, the keys in
    memory must be read again (`refresh`) before they are trusted.
    """

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        settings: TokenSettings,
        clock: Clock,
        is_fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._clock = clock
        self._receives_revocations = is_fresh
        self._transitions = KeyTransitions(
            database=database, keyring=keyring, settings=settings, clock=clock
        )
        self._keys = KeySet()
        self._verifying: dict[str, VerifyingKey] = {}
        self._active: SigningKey | None = None
        self._jwks = json.dumps({"keys": []})
        self._revoked: set[str] = set()
        self._gaps = 0
        self._gaps_before_read = 0
        self._reads = SingleFlight(self._read)
        self._learning = SingleFlight(self._reads.read, _LEARN_INTERVAL)
        self._woken = asyncio.Event()

    @property
    def active(self) -> SigningKey:
        """The key that signs; raises StoreUnavailable until a revoked key's successor is read."""
        if self._active is None:
            raise StoreUnavailable("No signing key is active.")
        return self._active

    def find(self, key_id: str) -> VerifyingKey | None:
        """Return the verifying key with this id if it is trusted and was read."""
        return self._verifying.get(key_id)

    def jwks(self) -> str:
        """Return the JSON Web Key Set: the keys that verify now and the one that will sign next."""
        return self._jwks

    def jwks_expire_time(self) -> datetime:
        """Return until when `jwks` may be cached so that a new key is seen before it signs."""
        return self._clock.now() + self._settings.key_publish_lead / 2

    def is_fresh(self) -> bool:
        """Return whether no revocation can have been missed since the keys were read."""
        return self._gaps == self._gaps_before_read and self._receives_revocations()

    async def load(self) -> None:
        """Read the keys at start; create the first one, or one of a newly configured algorithm.

        Raises:
            StoreUnavailable: The database did not answer.
            SealError: The active key can't be opened: the keyring lacks the key that sealed it.
        """
        await self.refresh()
        info = self._keys.in_state(KeyState.ACTIVE)
        if info is None or info.algorithm != self._settings.algorithm:
            await self._rotate(_SYSTEM)
        if self._active is None:
            raise SealError(
                "The active signing key can't be opened: secrets.keyring is not the one that this "
                "database's secrets were sealed with."
            )

    def active_info(self) -> SigningKeyInfo:
        """Return the key that signs; raises StoreUnavailable as `active` does."""
        info = self._keys.in_state(KeyState.ACTIVE)
        if info is None:
            raise StoreUnavailable("No signing key is active.")
        return info

    async def rotate(self, call: Call, replaced_key_id: str = "") -> str:
        """Activate the prepared or a new key; return the id of the active key.

        The old key verifies until its last token has expired. Of concurrent rotations only one
        takes effect, and all return its key. If `replaced_key_id` is given and that key doesn't
        sign any more, nothing changes.

        Raises:
            StoreUnavailable: The database did not answer.
            NotFound: KEY_NOT_FOUND: there is no key `replaced_key_id`.
        """
        await self.refresh()
        if replaced_key_id and replaced_key_id != self.active.key_id:
            await self._require(replaced_key_id)
        else:
            await self._rotate(call)
        return self.active.key_id

    async def revoke(self, call: Call, key_id: str) -> KeyRevocation:
        """Revoke a key, on every replica within a second; if it was active, another takes over.

        To revoke a revoked key changes nothing.

        Raises:
            StoreUnavailable: The database did not answer.
            NotFound: KEY_NOT_FOUND.
        """
        revocation = await self._transitions.revoke(call, key_id)
        if revocation.is_new:
            self._distrust(key_id)
            await self.refresh()
        else:
            await self._require(key_id)
        return revocation

    async def maintain(self, call: Call) -> None:
        """Do what is due: prepare the next key, activate it, remove keys no longer needed.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        await self.refresh()
        now, lead = self._clock.now(), self._settings.key_publish_lead
        if any(info.expire_time and info.expire_time <= now for info in self._keys.infos):
            await self._transitions.remove_expired()
        active, prepared = (
            self._keys.in_state(KeyState.ACTIVE),
            self._keys.in_state(KeyState.PREPARED),
        )
        if prepared is not None and prepared.algorithm != self._settings.algorithm:
            # So replicas whose settings differ, as during a rollout, don't rotate back and forth:
            # a key that the others prepare never gets old enough to sign.
            await self._transitions.remove_prepared_of_other_algorithm()
            prepared = None
        if active is None:
            await self._rotate(call)
        elif prepared is None:
            if now >= self._due(active) - lead:
                await self._transitions.prepare()
                await self.refresh()
        elif now >= max(self._due(active), prepared.create_time + lead):
            await self._rotate(call)

    async def run(self) -> None:
        """Maintain the keys until cancelled: periodically, and when they may have changed."""
        while True:
            self._woken.clear()
            try:
                await self.maintain(_SYSTEM)
            except StoreUnavailable as error:
                log.warning("signing_key_maintenance_failed", cause=describe(error))
            try:
                async with asyncio.timeout(_POLL.total_seconds()):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def learn(self, key_ids: Iterable[str]) -> bool:
        """Read the keys if tokens name unknown ones; return whether one of these is known now.

        Concurrent callers share a read, and these reads are 50 ms apart: a flood of made-up ids
        costs the database 20 small queries a second, and nobody waits longer than 50 ms for a read.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        unknown = {name for name in key_ids if len(name) == _KEY_ID_LENGTH} - self._verifying.keys()
        if not unknown:
            return False
        await self._learning.read()
        return not unknown.isdisjoint(self._verifying)

    async def refresh(self) -> None:
        """Read the keys, sharing the read with concurrent callers; may raise StoreUnavailable."""
        await self._reads.read()

    async def list(self) -> Sequence[SigningKeyInfo]:
        """Return all keys in any state, newest first; may raise StoreUnavailable."""
        async with self._database.connection() as conn:
            return [row.info for row in await store.list_all(conn)]

    def on_revocation(self, event: Revocation) -> None:
        """Distrust a key at once if the event revokes one."""
        if event.kind == "key":
            self._distrust(event.id)
            self._woken.set()

    def on_gap(self) -> None:
        """Treat the keys in memory as outdated: a revocation may have been missed."""
        self._gaps += 1
        self._woken.set()

    async def _require(self, key_id: str) -> None:
        """Raise KEY_NOT_FOUND unless a key in any state has this id."""
        if all(info.key_id != key_id for info in await self.list()):
            raise signing_key_not_found()

    async def _rotate(self, call: Call) -> None:
        """Replace the active key as last read, or create the first one."""
        active = self._keys.in_state(KeyState.ACTIVE)
        if active is None:
            await self._transitions.create_first(call)
        else:
            await self._transitions.replace(call, active.key_id)
        await self.refresh()

    def _due(self, active: SigningKeyInfo) -> datetime:
        """Return when the active key is due for replacement; at once if its algorithm differs."""
        if active.algorithm != self._settings.algorithm:
            return active.create_time
        return (active.activate_time or active.create_time) + self._settings.key_rotation_interval

    def _distrust(self, key_id: str) -> None:
        self._revoked.add(key_id)
        self._install(self._keys)

    async def _read(self) -> None:
        gaps = self._gaps
        async with self._database.connection() as conn:
            rows = await store.list_all(conn)
        self._install(key_set.open_keys(rows, self._keyring, self._keys, self._clock.now()))
        self._gaps_before_read = gaps

    def _install(self, keys: KeySet) -> None:
        # A read in flight while a key is revoked must not bring it back.
        for key_id in self._revoked:
            keys = keys.without(key_id)
        self._keys = keys
        self._active = keys.active()
        self._verifying = {name: key.verifying_key for name, key in keys.usable.items()}
        self._jwks = keys.jwks()
