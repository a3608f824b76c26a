"""API keys built of real parts: replicas on one database, and their users' tokens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from authsvc.config import ApiKeySettings, BruteForceSettings, PolicySettings
from authsvc.core.api_keys.keys import ApiKeys, CreatedApiKey, NewApiKey
from authsvc.core.api_keys.validation import ApiKeyCheck, ApiKeyResult, ApiKeyValidation
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.lib.ids import uuid7
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.messages.outbox import Outbox
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.sessions import CALL, DAY, World
from tests.support.tokens import PERMISSIONS, keyring

MINUTE = timedelta(minutes=1)
POLICIES = {
    "ten": PolicySettings(requests=10, window=timedelta(hours=1)),
    "two": PolicySettings(requests=2, window=timedelta(hours=1)),
}


def permissions_of(roles: Iterable[str]) -> list[str]:
    """Return what the roles of the tests may do."""
    return [name for role in roles for name in PERMISSIONS.get(role, ())]


def claims_of(world: World, user_id: UserId, *scopes: str, age: timedelta = MINUTE) -> Claims:
    """Return what the token of a user says who logged in `age` ago."""
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
    limiter: RateLimiter

    async def create(
        self, user_id: UserId, *scopes: str, name: str = "ci", **more: Any
    ) -> CreatedApiKey:
        wanted = NewApiKey(name, scopes, **more)
        return await self.keys.create(CALL, claims_of(self.world, user_id), wanted)

    async def judge(self, api_key: str, *scopes: str) -> ApiKeyResult:
        return await self.validation.validate(ApiKeyCheck(api_key, scopes))

    async def reason(self, api_key: str, *scopes: str) -> InactiveReason | None:
        """Return why a key is not active, and None if it is."""
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
    """Return a replica with these settings of API keys; nobody tells it of revocations."""
    database = database or world.database
    limiter = RateLimiter(database, policies_from(POLICIES if policies is None else policies), 100)
    own = ApiKeySettings.model_validate(settings)
    validation = ApiKeyValidation(database, limiter, permissions_of, own, world.clock, is_fresh)
    keys = ApiKeys(
        database,
        Outbox(keyring(), DAY, world.clock),
        limiter,
        BruteForce(database, limits or BruteForceSettings(), keyring()),
        RecentLogin(timedelta(minutes=10), world.clock),
        own,
        world.clock,
        validation.forget,
    )
    return Replica(world, keys, validation, limiter)
