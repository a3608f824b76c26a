"""Owns the life of a user's API keys: made, listed, revoked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from authsvc.config import ApiKeySettings
from authsvc.core.api_keys.key_text import digest, display_prefix, new_api_key
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib import paging
from authsvc.core.lib.ids import uuid7
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import (
    FieldInvalid,
    ServiceError,
    bearer_invalid,
    key_not_found,
    limit_reached,
    policy_unknown,
)
from authsvc.models.api_keys import ApiKey
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.tokens import Claims
from authsvc.store import api_keys as store
from authsvc.store import revocations
from authsvc.store.postgres.database import Connection, Database

_MIN_LIFETIME = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What is asked for: no scopes are all of the token's, no lifetime is the longest.

    `policy` "" is the one of the settings, if any.
    """

    name: str
    scopes: Sequence[str] = ()
    lifetime: timedelta | None = None
    policy: str = ""


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A key that was made; `text` is the key itself, known to its user alone from now on."""

    text: str = field(repr=False)
    key: ApiKey


@dataclass(frozen=True, slots=True)
class ApiKeyPage:
    """Some of a user's keys; `next_page_token` is "" if these were the last."""

    keys: Sequence[ApiKey]
    next_page_token: str


class ApiKeys:
    """The API keys of all users.

    `forget` is called with what was revoked here, so that this process need not be told of it.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        limiter: RateLimiter,
        brute_force: BruteForce,
        recent_login: RecentLogin,
        settings: ApiKeySettings,
        clock: Clock,
        forget: Callable[[ApiKeyId], None],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._limiter = limiter
        self._brute_force = brute_force
        self._recent_login = recent_login
        self._settings = settings
        self._clock = clock
        self._forget = forget

    async def create(self, call: Call, claims: Claims, wanted: NewApiKey) -> CreatedApiKey:
        """Make a key for the user of an access token, who is told of it.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED, or LIMIT_REACHED.
            FieldInvalid: A scope that the token lacks, or a lifetime out of bounds.
            NotFound: POLICY_UNKNOWN.
            TooManyAttempts: The user made too many keys of late.
            Unauthenticated: BEARER_INVALID, the user was disabled or deleted meanwhile, or the
                session was ended.
        """
        self._recent_login.require(claims)
        text = new_api_key(self._settings.prefix)
        key = self._new_key(claims, wanted, display_prefix(text))
        receipt = await self._brute_force.charge_api_key(key.user_id)
        try:
            await self._store(call, claims, key, digest(text))
        except ServiceError:
            await receipt.refund()
            raise
        return CreatedApiKey(text, key)

    async def list(self, user_id: UserId, page_size: int, page_token: str) -> ApiKeyPage:
        """Return up to `page_size` keys of a user, ended ones too, newest first.

        Raises:
            FieldInvalid: The page token is not one of this user's.
        """
        before = ApiKeyId(paging.parse_page_token(user_id, page_token)) if page_token else None
        async with self._database.connection() as connection:
            found = await store.list_of_user(connection, user_id, before, page_size + 1)
        page = found[:page_size]
        more = len(found) > page_size
        return ApiKeyPage(page, paging.page_token(user_id, page[-1].key_id) if more else "")

    async def revoke(self, call: Call, user_id: UserId, key_id: ApiKeyId) -> None:
        """End a user's key; harmless if it was revoked before.

        Raises:
            NotFound: KEY_NOT_FOUND, also if it is another user's.
        """
        now = self._clock.now()
        async with self._database.transaction() as connection:
            revoked = await store.revoke(connection, user_id, key_id, now)
            if revoked is None:
                raise key_not_found()
            if revoked:
                await revocations.append(connection, now, api_key_id=key_id)
                detail = {"key_id": str(key_id)}
                event = AuditEvent(AuditType.API_KEY_REVOKE, call, user_id, detail=detail)
                await record_event(connection, now, event)
        self._forget(key_id)

    async def _store(self, call: Call, claims: Claims, key: ApiKey, key_hash: bytes) -> None:
        async with self._database.transaction() as connection:
            owner = await store.lock_owner(connection, key.user_id)
            if owner is None:
                raise bearer_invalid()
            await self._recent_login.require_live(connection, claims.session_id)
            limit = self._settings.max_per_user
            if not await store.insert(connection, key, key_hash, limit):
                raise limit_reached(limit)
            await self._tell(connection, call, key, owner)

    def _new_key(self, claims: Claims, wanted: NewApiKey, prefix: str) -> ApiKey:
        now = self._clock.now()
        return ApiKey(
            key_id=ApiKeyId(uuid7(now)),
            user_id=claims.subject,
            name=wanted.name,
            prefix=prefix,
            scopes=_scopes(wanted.scopes, claims.scopes),
            policy=self._policy(wanted.policy),
            create_time=now,
            expire_time=now + self._lifetime(wanted.lifetime),
        )

    def _policy(self, wanted: str) -> str:
        policy = wanted or self._settings.policy or ""
        if policy and policy not in {known.name for known in self._limiter.policies()}:
            raise policy_unknown(policy)
        return policy

    def _lifetime(self, wanted: timedelta | None) -> timedelta:
        longest = self._settings.max_lifetime
        if wanted is None:
            return longest
        if not _MIN_LIFETIME <= wanted <= longest:
            most = int(longest.total_seconds())
            raise FieldInvalid("lifetime", f"must be from 60 to {most} seconds")
        return wanted

    async def _tell(
        self, connection: Connection, call: Call, key: ApiKey, owner: store.Owner
    ) -> None:
        """Record the making of a key and tell its user."""
        detail = {
            "key_id": str(key.key_id),
            "scopes": key.scopes,
            "policy": key.policy,
            "expire_time": key.expire_time.isoformat(),
        }
        event = AuditEvent(AuditType.API_KEY_CREATE, call, key.user_id, detail=detail)
        await record_event(connection, key.create_time, event)
        values = {"display_name": owner.display_name, "key_name": key.name}
        notice = Message(MessageKind.API_KEY_CREATED, owner.email, key.user_id, values=values)
        await self._outbox.enqueue(connection, notice)


def _scopes(wanted: Sequence[str], held: Sequence[str]) -> tuple[str, ...]:
    """Return what a key may do: `wanted`, or all that the token may."""
    for index, scope in enumerate(wanted):
        if scope not in held:
            raise FieldInvalid(f"scopes[{index}]", "is none of the token's scopes")
    return tuple(dict.fromkeys(wanted or held))
