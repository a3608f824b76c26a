"""API keys built from real parts: replicas on one database, and their users' tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from authsvc.config import ApiKeySettings, BruteForceSettings, PolicySettings
from authsvc.core.api_keys.keys import ApiKeys, CreatedApiKey, NewApiKey
from authsvc.core.api_keys.validation import (
    ApiKeyCache,
    ApiKeyCheck,
    ApiKeyResult,
    ApiKeyValidation,
)
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.last_use import LastUse
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.messages.outbox import Outbox
from authsvc.core.revocations.known import KnownRevocations
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store import api_keys as store
from authsvc.store.postgres.database import Database
from tests.support.sessions import CALL, DAY, World
from tests.support.tokens import PERMISSIONS, keyring

MINUTE = timedelta(minutes=1)
POLICIES = {
    "ten": PolicySettings(requests=10, window=timedelta(hours=1)),
    "two": PolicySettings(requests=2, window=timedelta(hours=1)),
}


def claims_of(world: World, user_id: UserId, *scopes: str, age: timedelta = MINUTE) -> Claims:
    """Return the claims of a token of a user who logged in `age` ago."""
    now = world.clock.now()
    return Claims(
        issuer="https://authsvc.dev",
        audiences=("authsvc",),
        expire_time=now + timedelta(hours=1),
        issue_time=now,
        not_before_time=now,
        token_id="token",
        scopes=scopes or ("read", "write"),
        subject=user_id,
        session_id=SessionId(uuid7(now)),
        roles=("user",),
        permissions=("read", "write"),
        authentication_methods=("pwd",),
        authentication_time=now - age,
    )


@dataclass
class Replica:
    """One replica's API keys."""

    world: World
    keys: ApiKeys
    validation: ApiKeyValidation
    cache: ApiKeyCache
    last_use: LastUse[ApiKeyId]
    limiter: RateLimiter

    async def create(
        self, user_id: UserId, *scopes: str, name: str = "ci", **more: Any
    ) -> CreatedApiKey:
        wanted = NewApiKey(name, scopes, **more)
        return await self.keys.create(CALL, claims_of(self.world, user_id), wanted)

    async def judge(self, api_key: str, *scopes: str) -> ApiKeyResult:
        return await self.validation.validate(ApiKeyCheck(api_key, scopes))

    async def reason(self, api_key: str, *scopes: str) -> InactiveReason | None:
        """Return why a key is not active, or None if it is."""
        result = await self.judge(api_key, *scopes)
        assert result.active == (result.reason is None) == (result.key is not None)
        return result.reason


def replica(
    world: World,
    *,
    database: Database | None = None,
    is_fresh: Callable[[], bool] = lambda: True,
    policies: dict[str, PolicySettings] | None = None,
    limits: BruteForceSettings | None = None,
    **settings: object,
) -> Replica:
    """Return a replica with these API key settings, which is not notified of revocations."""
    database = database or world.database
    limiter = RateLimiter(
        database=database,
        policies=policies_from(POLICIES if policies is None else policies),
        rejected_cache_size=100,
    )
    own = ApiKeySettings.model_validate(settings)
    cache = ApiKeyCache(own.cache_size)
    last_use = LastUse(database, store.touch, own.last_use_interval)
    validation = ApiKeyValidation(
        database=database,
        cache=cache,
        last_use=last_use,
        limiter=limiter,
        permissions=PERMISSIONS,
        settings=own,
        clock=world.clock,
        is_fresh=is_fresh,
        revocations=KnownRevocations(),
    )
    keys = ApiKeys(
        database=database,
        outbox=Outbox(keyring(), DAY, world.clock),
        limiter=limiter,
        brute_force=BruteForce(database, limits or BruteForceSettings(), keyring()),
        recent_login=RecentLogin(timedelta(minutes=10), world.clock),
        settings=own,
        clock=world.clock,
        forget=cache.drop,
    )
    return Replica(world, keys, validation, cache, last_use, limiter)
