"""Owns the life cycle of a user's API keys: creation, listing and revocation."""

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
from authsvc.core.roles.permissions import narrow_scopes
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
from authsvc.models.revocations import RevocationCursor
from authsvc.models.tokens import Claims
from authsvc.models.users import User
from authsvc.store import api_keys as store
from authsvc.store import revocations, users
from authsvc.store.postgres.database import Connection, Database

_MIN_LIFETIME = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A request for a key; no scopes means all of the token's, no lifetime the longest.

    An empty `policy` means that of the settings, if any.
    """

    name: str
    scopes: Sequence[str] = ()
    lifetime: timedelta | None = None
    policy: str = ""


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new key; `text` is the key itself, which only its user knows from now on."""

    text: str = field(repr=False)
    key: ApiKey


@dataclass(frozen=True, slots=True)
class ApiKeyPage:
    """A page of a user's keys; `next_page_token` is "" on the last page."""

    keys: Sequence[ApiKey]
    next_page_token: str


class ApiKeys:
    """Creates, lists and revokes API keys.

    `forget` drops a key that was revoked here from this process's cache at once.
    """

    def __init__(
        self,
        *,
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

    async def create(self, call: Call, claims: Claims, request: NewApiKey) -> CreatedApiKey:
        """Create a key for the user of an access token, and notify the user.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED, or LIMIT_REACHED.
            FieldInvalid: A scope that the token lacks, or a lifetime out of bounds.
            NotFound: POLICY_UNKNOWN.
            TooManyAttempts: The user created too many keys recently.
            Unauthenticated: BEARER_INVALID: the user was disabled or deleted meanwhile, or the
                session was ended.
        """
        self._recent_login.require(claims)
        text = new_api_key(self._settings.prefix)
        key = self._new_key(claims, request, display_prefix(text))
        receipt = await self._brute_force.charge_api_key(key.user_id)
        try:
            await self._store(call, claims, key, digest(text))
        except ServiceError:
            await receipt.refund()
            raise
        return CreatedApiKey(text, key)

    async def list(self, user_id: UserId, page_size: int, page_token: str) -> ApiKeyPage:
        """Return a page of a user's keys, ended ones too, newest first; `page_size` 0 means 50.

        Raises:
            FieldInvalid: The page size is not 0 to 1000, or the page token is not this user's.
        """
        size = paging.page_size(page_size)
        before = ApiKeyId(paging.parse_page_token(user_id, page_token)) if page_token else None
        async with self._database.connection() as connection:
            found = await store.list_of_user(connection, user_id, before, size + 1)
        return ApiKeyPage(
            *paging.cut(found, size, lambda last: paging.page_token(user_id, last.key_id))
        )

    async def revoke(self, call: Call, user_id: UserId, key_id: ApiKeyId) -> RevocationCursor:
        """Revoke a user's key; do nothing if it is already revoked. Return what names that.

        Raises:
            NotFound: KEY_NOT_FOUND, also if the key is another user's.
        """
        now = self._clock.now()
        async with self._database.transaction(user_id) as connection:
            revoked = await store.revoke(connection, user_id, key_id, now)
            if revoked is None:
                raise key_not_found()
            if revoked:
                await revocations.append(connection, now, api_key_id=key_id)
                detail = {"key_id": str(key_id)}
                event = AuditEvent(AuditType.API_KEY_REVOKE, call, user_id, detail=detail)
                await record_event(connection, now, event)
            cursor = await revocations.cursor_of_now(connection)
        self._forget(key_id)
        return cursor

    async def _store(self, call: Call, claims: Claims, key: ApiKey, key_hash: bytes) -> None:
        async with self._database.transaction(key.user_id) as connection:
            user = await users.lock_user(connection, key.user_id)
            if user is None or not user.active:
                raise bearer_invalid()
            await self._recent_login.require_live(connection, claims.session_id)
            limit = self._settings.max_per_user
            if not await store.insert(connection, key, key_hash, limit):
                raise limit_reached(limit)
            await self._notify(connection, call, key, user)

    def _new_key(self, claims: Claims, request: NewApiKey, prefix: str) -> ApiKey:
        now = self._clock.now()
        return ApiKey(
            key_id=ApiKeyId(uuid7(now)),
            user_id=claims.subject,
            name=request.name,
            prefix=prefix,
            scopes=narrow_scopes(request.scopes, claims.scopes),
            policy=self._policy(request.policy),
            create_time=now,
            expire_time=now + self._lifetime(request.lifetime),
        )

    def _policy(self, requested: str) -> str:
        policy = requested or self._settings.policy or ""
        if policy and policy not in {known.name for known in self._limiter.policies()}:
            raise policy_unknown(policy)
        return policy

    def _lifetime(self, requested: timedelta | None) -> timedelta:
        longest = self._settings.max_lifetime
        if requested is None:
            return longest
        if not _MIN_LIFETIME <= requested <= longest:
            max_seconds = int(longest.total_seconds())
            raise FieldInvalid("lifetime", f"must be from 60 to {max_seconds} seconds")
        return requested

    async def _notify(self, connection: Connection, call: Call, key: ApiKey, user: User) -> None:
        """Record the creation of a key and notify its user."""
        detail = {
            "key_id": str(key.key_id),
            "scopes": key.scopes,
            "policy": key.policy,
            "expire_time": key.expire_time.isoformat(),
        }
        event = AuditEvent(AuditType.API_KEY_CREATE, call, key.user_id, detail=detail)
        await record_event(connection, key.create_time, event)
        values = {"display_name": user.display_name, "key_name": key.name}
        notice = Message(MessageKind.API_KEY_CREATED, user.email, key.user_id, values=values)
        await self._outbox.enqueue(connection, notice)
