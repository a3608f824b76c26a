"""Owns the validation of API keys: the rules, the cache, and each key's own limit.

A result may come from the cache, which lags a revocation by no more than
`sessions.cache_staleness`: it is used only while the revocation listener is up to date, and drops a
revoked key when notified. Inactive keys are never cached. A cached key is read again every
`last_use_interval`, when its use is recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from authsvc.config import ApiKeySettings
from authsvc.core.api_keys.key_text import digest, is_api_key
from authsvc.core.lib.batching import Batcher
from authsvc.core.lib.last_use import LastUse
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.revocations.cache import RevocableCache
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.roles.permissions import Permissions
from authsvc.errors import NotFound
from authsvc.models.api_keys import ApiKey
from authsvc.models.clock import Clock
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.limits import Charge
from authsvc.models.revocations import RevocationCursor
from authsvc.models.tokens import InactiveReason
from authsvc.models.users import UserStatus
from authsvc.store import api_keys as store
from authsvc.store.api_keys import StoredApiKey
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# Rows per statement, and callers that may wait.
_MAX_BATCH = 1_000
_MAX_WAITING = 20_000


@dataclass(frozen=True, slots=True)
class ApiKeyCheck:
    """An API key to validate; what `min_cursor` names is taken into account."""

    api_key: str = field(repr=False)
    required_scopes: Sequence[str] = ()
    min_cursor: RevocationCursor | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyResult:
    """The result of a check: the key and its present scopes if it is active, otherwise the reason.

    `retry_after` is in seconds, with RATE_LIMITED; None if waiting does not help.
    """

    active: bool
    reason: InactiveReason | None = None
    key: ApiKey | None = None
    scopes: tuple[str, ...] = ()
    retry_after: float | None = None


_INACTIVE: Final = {reason: ApiKeyResult(active=False, reason=reason) for reason in InactiveReason}


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key as it was read; `scopes` are those of its scopes that its user still has."""

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
        """The key's user."""
        return self.key.user_id

    def state(self, now: datetime) -> InactiveReason | None:
        """Return why the key is not active according to its row, or None."""
        if self.key.revoke_time is not None:
            return InactiveReason.KEY_REVOKED
        if self.user_status is not UserStatus.ACTIVE:
            return InactiveReason.USER_DISABLED
        return InactiveReason.EXPIRED if now >= self.key.expire_time else None


class ApiKeyCache(RevocableCache[LoadedKey]):
    """The most recently used active keys, up to `max_size`."""

    def __init__(self, max_size: int) -> None:
        super().__init__("api_key", max_size)


class ApiKeyValidation:
    """Validates API keys.

    `is_fresh` returns whether the cache has been notified of everything that was revoked more than
    a short while ago; while it returns False, the cache is not used.
    """

    def __init__(  # noqa: PLR0913 - all but the last are parts
        self,
        *,
        database: Database,
        cache: ApiKeyCache,
        last_use: LastUse[ApiKeyId],
        limiter: RateLimiter,
        permissions: Permissions,
        settings: ApiKeySettings,
        clock: Clock,
        is_fresh: Callable[[], bool],
        revocations: KnownRevocations,
    ) -> None:
        self._database = database
        self._cache = cache
        self._last_use = last_use
        self._limiter = limiter
        self._permissions = permissions
        self._interval = settings.last_use_interval
        self._clock = clock
        self._is_fresh = is_fresh
        self._revocations = revocations
        self._reads = Batcher(run=self._read, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING)

    async def validate(self, check: ApiKeyCheck) -> ApiKeyResult:
        """Validate an API key; if it is active, charge its use to its own limit.

        Raises:
            Overloaded: Too many lookups or charges are waiting.
            StoreUnavailable: The database does not answer.
        """
        if not is_api_key(check.api_key):
            return _INACTIVE[InactiveReason.MALFORMED]
        token_hash = digest(check.api_key)
        loaded = None if self._revocations.lack(check.min_cursor) else self._cached(token_hash)
        loaded = loaded or await self._reads.submit(token_hash)
        if loaded is None:
            return _INACTIVE[InactiveReason.KEY_UNKNOWN]
        reason = loaded.state(self._clock.now())
        if reason is not None:
            return _INACTIVE[reason]
        rejection = await self._charge(loaded.key)
        if rejection is not None:
            return rejection
        if not set(check.required_scopes).issubset(loaded.scopes):
            return _INACTIVE[InactiveReason.SCOPE_MISSING]
        return ApiKeyResult(active=True, key=loaded.key, scopes=loaded.scopes)

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
        granted = frozenset(self._permissions.of(stored.user_roles))
        return LoadedKey(
            key=stored.key,
            token_hash=stored.key_hash,
            user_status=stored.user_status,
            scopes=tuple(scope for scope in stored.key.scopes if scope in granted),
            reread_time=now + self._interval,
        )

    async def _charge(self, key: ApiKey) -> ApiKeyResult | None:
        """Charge a use to the key's own limit; return the rejection if it is exhausted."""
        if not key.policy:
            return None
        try:
            result = await self._limiter.check([Charge(key.policy, str(key.key_id))])
        except NotFound:
            # The policy is no longer in the settings: reject the use, as it would have no limit.
            log.warning("api_key_policy_unknown", key_id=str(key.key_id), policy=key.policy)
            return _INACTIVE[InactiveReason.RATE_LIMITED]
        if result.allowed:
            return None
        retry_after = result.verdicts[0].retry_after
        return ApiKeyResult(
            active=False, reason=InactiveReason.RATE_LIMITED, retry_after=retry_after
        )
