"""Owns the life cycle of signing keys: prepared, active, retired, removed; or revoked at once.

Every replica runs this and keeps the keys in memory. A key is published `key_publish_lead` before
it signs: every replica has read it by then, and whoever has cached the published keys for the
`max-age` that they carry has asked again. A token signed by a key not read yet makes the process
read the keys (`learn`).
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from authsvc.config import TokenSettings
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.lib.single_flight import SingleFlight
from authsvc.core.signing import jws, key_set
from authsvc.core.signing.jwk import SigningKey, VerifyingKey
from authsvc.core.signing.key_set import KeySet
from authsvc.core.signing.key_transitions import PROPAGATION_GRACE, KeyTransitions
from authsvc.core.signing.signer import Signer
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
_MAX_AGE = timedelta(minutes=5)
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
        signer: Signer | None = None,
        is_fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._clock = clock
        self._receives_revocations = is_fresh
        self._signer = signer or Signer()
        self._transitions = KeyTransitions(
            database=database,
            keyring=keyring,
            settings=settings,
            clock=clock,
            signer=self._signer,
        )
        self._keys = KeySet()
        self._max_age = min(_MAX_AGE, settings.key_publish_lead / 2)
        self._verifying: dict[str, VerifyingKey] = {}
        self._active: SigningKey | None = None
        self._jwks = json.dumps({"keys": []})
        self._read_time = datetime.min.replace(tzinfo=UTC)
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

    async def sign(self, typ: str, payload: Mapping[str, object]) -> str:
        """Return `payload` signed by the active key as a compact JWS of this type.

        Raises:
            StoreUnavailable: No key is active, or the HSM that holds it did not answer.
        """
        return await jws.sign(self._signer, self.active, typ, payload)

    def find(self, key_id: str) -> VerifyingKey | None:
        """Return the verifying key with this id if it is trusted and was read."""
        return self._verifying.get(key_id)

    def jwks(self) -> str:
        """Return the JSON Web Key Set: the keys that verify now and the one that will sign next."""
        return self._jwks

    def has_secret_keys(self) -> bool:
        """Return whether there are keys that verify and are not in `jwks`."""
        return self._keys.has_secret()

    def jwks_expire_time(self) -> datetime:
        """Return until when `jwks` may be cached so that a new key is seen before it signs.

        That is five minutes, and at most half of the lead; and less if the keys were read so long
        ago that a key may be missing which signs soon.
        """
        now, lead = self._clock.now(), self._settings.key_publish_lead
        return max(now, min(now + self._max_age, self._read_time + lead * 3 / 4))

    def refused_until(self, active: SigningKeyInfo) -> datetime | None:
        """Return until when verifiers may not have this key; None if all have it.

        They had no time to get it if it replaced a key `now`, or one that was revoked.
        """
        known = active.create_time + self._poll() + self._max_age
        return known if known > self._clock.now() else None

    def is_fresh(self) -> bool:
        """Return whether no revocation can have been missed since the keys were read."""
        return self._gaps == self._gaps_before_read and self._receives_revocations()

    async def load(self) -> None:
        """Read the keys at start, and do what is due; create the first one, which signs at once.

        Raises:
            StoreUnavailable: The database did not answer.
            SealError: The active key can't be opened: the keyring lacks the key that sealed it.
        """
        await self.refresh()
        if self._keys.in_state(KeyState.ACTIVE) is None:
            await self._create_first(_SYSTEM)
        if self._active is None:
            raise SealError(
                "The active signing key can't be opened: secrets.keyring is not the one that this "
                "database's secrets were sealed with."
            )
        await self.maintain(_SYSTEM)

    def active_info(self) -> SigningKeyInfo:
        """Return the key that signs; raises StoreUnavailable as `active` does."""
        info = self._keys.in_state(KeyState.ACTIVE)
        if info is None:
            raise StoreUnavailable("No signing key is active.")
        return info

    def active_age(self) -> float:
        """Return how many seconds ago the key began to sign; raises as `active` does."""
        info = self.active_info()
        return (self._clock.now() - (info.activate_time or info.create_time)).total_seconds()

    async def rotate(
        self, call: Call, replaced_key_id: str = "", *, now: bool = False
    ) -> SigningKeyInfo:
        """Let the next key sign as soon as every verifier has it, or `now`; return that key.

        If it has been published for long enough, it signs when this returns, and is active.
        Otherwise it is prepared, and `activate_time` is when it will sign; another call changes
        nothing. With `now`, verifiers that have cached the keys refuse its tokens until they ask
        again.

        The old key verifies until its last token has expired. Of concurrent rotations only one
        takes effect, and all return its key. If `replaced_key_id` is given and that key doesn't
        sign any more, nothing changes, and the key that signs is returned.

        Raises:
            StoreUnavailable: The database did not answer.
            NotFound: KEY_NOT_FOUND: there is no key `replaced_key_id`.
        """
        await self.refresh()
        active = self._keys.in_state(KeyState.ACTIVE)
        if replaced_key_id and (active is None or replaced_key_id != active.key_id):
            await self._require(replaced_key_id)
            return self.active_info()
        if active is None:
            await self._create_first(call)
            return self.active_info()
        await self._keep_prepared(readable=True)
        if now:
            await self._transitions.replace_now(call, active.key_id)
        else:
            await self._transitions.replace(call, active.key_id)
            # Nothing is noted if it was replaced.
            await self._transitions.request_rotation(call, active.key_id)
        await self._read_active()
        signing = self.active_info()
        following = self._next_info() if signing.key_id == active.key_id else None
        return following or signing

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
            await self._transitions.destroy_revoked(key_id)
        else:
            await self._require(key_id)
        await self._read_active()
        return revocation

    async def maintain(self, call: Call) -> None:
        """Do what is due: prepare the next key, activate it, remove keys no longer needed.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        await self.refresh()
        now = self._clock.now()
        if any(info.expire_time and info.expire_time <= now for info in self._keys.infos):
            await self._transitions.remove_expired()
        active = self._keys.in_state(KeyState.ACTIVE)
        if active is None:
            await self._create_first(call)
            return
        await self._keep_prepared()
        following = self._next_info()
        if following and following.activate_time and now >= following.activate_time:
            await self._transitions.replace(call, active.key_id)
            await self.refresh()

    async def run(self) -> None:
        """Maintain the keys until cancelled: periodically, when one is due, and when woken."""
        while True:
            self._woken.clear()
            poll = self._poll().total_seconds()
            try:
                await self.maintain(_SYSTEM)
                poll = min(poll, self._seconds_until_due())
            except StoreUnavailable as error:
                log.warning("signing_key_maintenance_failed", cause=describe(error))
            try:
                async with asyncio.timeout(poll):
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
        """Return all keys in any state, newest first; may raise StoreUnavailable.

        The `activate_time` of the prepared key is when it will sign.
        """
        async with self._database.connection() as conn:
            infos = [row.info for row in await store.list_all(conn)]
        return self._with_plan(infos)

    async def find_orphans(self) -> Sequence[str]:
        """Return the ids, in hexadecimal, of secrets in the HSM that no stored key names.

        An interrupted rotation leaves them behind. Nothing is returned while a stored key can't be
        opened, as one of them may be its secret.

        Raises:
            StoreUnavailable: The HSM or the database did not answer.
        """
        # First, so that no key is missing that is stored meanwhile.
        found = set(await self._signer.find_external_ids())
        async with self._database.connection() as conn:
            rows = await store.list_all(conn)
        for row in rows:
            try:
                key = key_set.open_key(row, self._keyring)
            except (SealError, ValueError):
                return []
            if key.external is not None:
                found.discard(key.external.id)
        return sorted(id_.hex() for id_ in found)

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

    async def _read_active(self) -> None:
        """Read the keys, and again if the one that signed was revoked meanwhile."""
        await self.refresh()
        if self._keys.in_state(KeyState.ACTIVE) is None:
            await self.refresh()

    async def _create_first(self, call: Call) -> None:
        await self._transitions.create_first(call)
        await self.refresh()

    async def _keep_prepared(self, *, readable: bool = False) -> None:
        """See to it that a key as the settings say is published, to sign next.

        With `readable`, one that this process can open.
        """
        prepared = self._keys.in_state(KeyState.PREPARED)
        if prepared is not None and (
            self._is_outdated(prepared) or (readable and prepared.key_id not in self._keys.usable)
        ):
            # So replicas whose settings differ, as during a rollout, don't rotate back and forth:
            # a key that the others prepare never gets old enough to sign.
            await self._transitions.remove_prepared(prepared.key_id)
            prepared = None
        if prepared is None:
            await self._transitions.prepare()
            await self.refresh()

    def _next_info(self) -> SigningKeyInfo | None:
        """Return the prepared key as last read, with the time at which it will sign."""
        planned = self._with_plan(self._keys.infos)
        return next((info for info in planned if info.state is KeyState.PREPARED), None)

    def _poll(self) -> timedelta:
        """Return how often the keys are read: a key is read by all long before it signs."""
        return min(_POLL, self._settings.key_publish_lead / 4)

    def _seconds_until_due(self) -> float:
        following = self._next_info()
        if following is None or following.activate_time is None:
            return _LEARN_INTERVAL
        left = (following.activate_time - self._clock.now()).total_seconds()
        return max(left, _LEARN_INTERVAL)

    def _with_plan(self, infos: Sequence[SigningKeyInfo]) -> Sequence[SigningKeyInfo]:
        """Return the keys, the prepared one with the time at which it will sign."""
        active = next((info for info in infos if info.state is KeyState.ACTIVE), None)
        if active is None:
            return infos
        due, lead = self._due(active), self._settings.key_publish_lead
        return [
            replace(info, activate_time=max(due, info.create_time + lead))
            if info.state is KeyState.PREPARED
            else info
            for info in infos
        ]

    def _due(self, active: SigningKeyInfo) -> datetime:
        """Return when the active key is to be replaced; at once if a new one would differ."""
        if self._is_outdated(active):
            return active.create_time
        due = (active.activate_time or active.create_time) + self._settings.key_rotation_interval
        return min(due, active.rotate_request_time or due)

    def _is_outdated(self, info: SigningKeyInfo) -> bool:
        """Return whether a new key would have another algorithm, or its secret elsewhere."""
        key = self._keys.usable.get(info.key_id)
        return info.algorithm != self._settings.algorithm or (
            key is not None and not self._signer.is_wanted(key)
        )

    def _distrust(self, key_id: str) -> None:
        self._revoked.add(key_id)
        self._install(self._keys)

    async def _read(self) -> None:
        gaps, read_time = self._gaps, self._clock.now()
        async with self._database.connection() as conn:
            rows = await store.list_all(conn)
        self._install(key_set.open_keys(rows, self._keyring, self._keys, self._clock.now()))
        self._gaps_before_read, self._read_time = gaps, read_time

    def _install(self, keys: KeySet) -> None:
        # A read in flight while a key is revoked must not bring it back.
        for key_id in self._revoked:
            keys = keys.without(key_id)
        self._keys = keys
        self._active = keys.active()
        self._verifying = {name: key.verifying_key for name, key in keys.usable.items()}
        self._jwks = keys.jwks()
