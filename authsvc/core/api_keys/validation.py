"""Owns the question whether an API key is active: the rules, the cache, the key's own limit.

An answer may come from the cache, which lags a revocation by no more than
`sessions.cache_staleness`: it is used only while revocations are heard, and forgets what is revoked
when it is told. What is not active is never cached. A cached key is read again every
`last_use_interval`, when its use is noted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from authsvc.config import ApiKeySettings
from authsvc.core.api_keys.key_text import digest, is_api_key
from authsvc.core.lib.batching import Batcher
from authsvc.core.lib.last_use import LastUse
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.revocations.cache import RevocableCache
from authsvc.core.revocations.listener import Revocation
from authsvc.errors import NotFound
from authsvc.models.api_keys import ApiKey
from authsvc.models.clock import Clock
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.limits import Charge
from authsvc.models.tokens import InactiveReason
from authsvc.models.users import UserStatus
from authsvc.store import api_keys as store
from authsvc.store.api_keys import StoredApiKey
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# Rows of one statement, and callers that may wait for theirs.
_MAX_BATCH = 1_000
_MAX_WAITING = 20_000


@dataclass(frozen=True, slots=True)
class ApiKeyCheck:
    """An API key to be judged."""

    api_key: str = field(repr=False)
    required_scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ApiKeyResult:
    """What became of a check: the key and what it may do now if it is active, else the reason.

    `retry_after` is in seconds, with RATE_LIMITED; None: waiting does not help.
    """

    active: bool
    reason: InactiveReason | None = None
    key: ApiKey | None = None
    scopes: tuple[str, ...] = ()
    retry_after: float | None = None


_INACTIVE: Final = {reason: ApiKeyResult(active=False, reason=reason) for reason in InactiveReason}


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key as it was read; `scopes` are those of its own that its user has at present."""

    key: ApiKey
    token_hash: bytes = field(repr=False)
    user_status: UserStatus
    scopes: tuple[str, ...]
    reread_time: datetime

    @property
    def id(self) -> ApiKeyId:
        """The key's id."""
        return self.key.key_id

    @property
    def user_id(self) -> UserId:
        """Whose key it is."""
        return self.key.user_id

    def state(self, now: datetime) -> InactiveReason | None:
        """Return why the key is not active, as far as its row says."""
        if self.key.revoke_time is not None:
            return InactiveReason.KEY_REVOKED
        if self.user_status is not UserStatus.ACTIVE:
            return InactiveReason.USER_DISABLED
        return InactiveReason.EXPIRED if now >= self.key.expire_time else None


class ApiKeyValidation:
    """Judges API keys.

    `permissions_of` says what users with some roles may do. `is_fresh` says whether `on_revocation`
    would have been called by now for whatever was revoked a short while ago; while it says no, the
    cache is not used.
    """

    def __init__(
        self,
        database: Database,
        limiter: RateLimiter,
        permissions_of: Callable[[Iterable[str]], Sequence[str]],
        settings: ApiKeySettings,
        clock: Clock,
        is_fresh: Callable[[], bool],
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._permissions_of = permissions_of
        self._interval = settings.last_use_interval
        self._clock = clock
        self._is_fresh = is_fresh
        self._cache: RevocableCache[LoadedKey] = RevocableCache(settings.cache_size)
        self._reads = Batcher(self._read, _MAX_BATCH, _MAX_WAITING)
        self._last_use = LastUse(database, store.touch, settings.last_use_interval)

    async def validate(self, check: ApiKeyCheck) -> ApiKeyResult:
        """Judge an API key; if it is in force, its use is charged to its own limit.

        Raises:
            Overloaded: Too many look-ups or charges wait already.
            StoreUnavailable: The database does not answer.
        """
        if not is_api_key(check.api_key):
            return _INACTIVE[InactiveReason.MALFORMED]
        token_hash = digest(check.api_key)
        loaded = self._cached(token_hash) or await self._reads.submit(token_hash)
        if loaded is None:
            return _INACTIVE[InactiveReason.KEY_UNKNOWN]
        reason = loaded.state(self._clock.now())
        if reason is not None:
            return _INACTIVE[reason]
        refusal = await self._charge(loaded.key)
        if refusal is not None:
            return refusal
        if not set(check.required_scopes).issubset(loaded.scopes):
            return _INACTIVE[InactiveReason.SCOPE_MISSING]
        return ApiKeyResult(active=True, key=loaded.key, scopes=loaded.scopes)

    def forget(self, key_id: ApiKeyId) -> None:
        """Forget a key, also if it is being read."""
        self._cache.drop(key_id)

    def on_revocation(self, revocation: Revocation) -> None:
        """Forget what was revoked; called for every announcement."""
        if revocation.kind == "api_key":
            self._cache.drop(UUID(revocation.id))
        elif revocation.kind == "user":
            self._cache.drop_user(UserId(UUID(revocation.id)))

    def on_gap(self) -> None:
        """Forget everything; called when announcements may have been missed."""
        self._cache.drop_all()

    async def flush(self) -> None:
        """Write when keys were last used; the last thing before the database is closed."""
        await self._last_use.flush()

    async def run(self) -> None:
        """Write when keys were last used, every second, until cancelled."""
        await self._last_use.run()

    def _cached(self, token_hash: bytes) -> LoadedKey | None:
        if not self._is_fresh():
            return None
        loaded = self._cache.by_token(token_hash)
        if loaded is None or self._clock.now() >= loaded.reread_time:
            return None
        return loaded

    async def _read(self, hashes: list[bytes]) -> list[LoadedKey | None]:
        with self._cache.loading() as loading:
            async with self._database.connection() as connection:
                found = await store.find(connection, hashes)
            now = self._clock.now()
            entries = {key_hash: self._load(stored, now) for key_hash, stored in found.items()}
            for loaded in entries.values():
                if loaded.state(now) is None:
                    loading.keep(loaded)
                    self._last_use.note(loaded.id, now)
        return [entries.get(key_hash) for key_hash in hashes]

    def _load(self, stored: StoredApiKey, now: datetime) -> LoadedKey:
        granted = frozenset(self._permissions_of(stored.user_roles))
        return LoadedKey(
            key=stored.key,
            token_hash=stored.key_hash,
            user_status=stored.user_status,
            scopes=tuple(scope for scope in stored.key.scopes if scope in granted),
            reread_time=now + self._interval,
        )

    async def _charge(self, key: ApiKey) -> ApiKeyResult | None:
        """Charge a use to the key's own limit; return the refusal if nothing of it is left."""
        if not key.policy:
            return None
        try:
            result = await self._limiter.check([Charge(key.policy, str(key.key_id))])
        except NotFound:
            # The settings have lost the policy: better no use than one without a limit.
            log.warning("api_key_policy_unknown", key_id=str(key.key_id), policy=key.policy)
            return _INACTIVE[InactiveReason.RATE_LIMITED]
        if result.allowed:
            return None
        retry_after = result.verdicts[0].retry_after
        return ApiKeyResult(
            active=False, reason=InactiveReason.RATE_LIMITED, retry_after=retry_after
        )
