"""Owns the attestation of public keys for a session, and the listing of a user's attested keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib import paging
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.slices import Slices
from authsvc.core.session_keys.proof import SessionProof, prove
from authsvc.core.session_keys.statements import Statements
from authsvc.core.session_keys.ttl import bounded_ttl
from authsvc.core.sessions.validation import SessionValidation
from authsvc.errors import ServiceError, impersonation_not_allowed, limit_reached, session_invalid
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionKeyId, UserId
from authsvc.models.session_keys import PublicKey, SessionKey
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason
from authsvc.store import session_keys as store
from authsvc.store.postgres.database import Database


@dataclass(frozen=True, slots=True)
class NewSessionKey:
    """A request for the attestation of a key; no `ttl` means the longest."""

    public_key: PublicKey
    purpose: str
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class AttestedKey:
    """A session key, and the statement about it, which is public."""

    key: SessionKey
    statement: str


@dataclass(frozen=True, slots=True)
class SessionKeyPage:
    """A page of a user's session keys; `next_page_token` is "" on the last page."""

    keys: Sequence[AttestedKey]
    next_page_token: str


class SessionKeys:
    """Attests keys and lists them. Statements are signed when they are given out, never stored."""

    def __init__(
        self,
        *,
        database: Database,
        validation: SessionValidation,
        statements: Statements,
        brute_force: BruteForce,
        sessions: SessionSettings,
        tokens: TokenSettings,
        clock: Clock,
        slices: Slices,
    ) -> None:
        self._database = database
        self._validation = validation
        self._statements = statements
        self._brute_force = brute_force
        self._max_keys = sessions.max_keys
        self._max_ttl = tokens.session_key_lifetime
        self._clock = clock
        self._slices = slices

    async def issue(self, call: Call, proof: SessionProof, request: NewSessionKey) -> AttestedKey:
        """Attest a key for the session's user; the same key for the same purpose is the same again.

        Raises:
            FailedPrecondition: LIMIT_REACHED; NOT_CONFIGURED: the signing key is symmetric.
            FieldInvalid: The ttl is out of bounds.
            PermissionDenied: IMPERSONATION_NOT_ALLOWED: the key would be the operator's own.
            TooManyAttempts: The user had too many keys attested recently.
            Unauthenticated: SESSION_INVALID or SESSION_BINDING_MISMATCH.
        """
        ttl = bounded_ttl(request.ttl, self._max_ttl)
        self._statements.require_public_key()
        session = await prove(self._validation, proof)
        if session.impersonator is not None:
            raise impersonation_not_allowed("An impersonated session must not have keys attested.")
        receipt = await self._brute_force.charge_session_key(session.user_id)
        try:
            key = await self._store(call, session, proof, request, ttl)
        except ServiceError:
            await receipt.refund()
            raise
        return await self._attest(key)

    async def list(self, user_id: UserId, page_size: int, page_token: str) -> SessionKeyPage:
        """Return a page of the keys of a user's active sessions, newest first, from the database.

        Raises:
            FailedPrecondition: NOT_CONFIGURED: the signing key is symmetric.
            FieldInvalid: The page size is not 0 to 1000, or the page token is not this user's.
        """
        size = paging.page_size(page_size)
        before = SessionKeyId(paging.parse_page_token(user_id, page_token)) if page_token else None
        self._statements.require_public_key()
        async with self._database.connection() as connection:
            found = await store.list_live(connection, user_id, self._clock.now(), before, size + 1)
        page, next_page_token = paging.cut(
            found, size, lambda last: paging.page_token(user_id, last.key_id)
        )
        attested = await self._slices.map_async(self._attest, page)
        return SessionKeyPage(attested, next_page_token)

    async def _store(
        self,
        call: Call,
        session: Session,
        proof: SessionProof,
        request: NewSessionKey,
        ttl: timedelta,
    ) -> SessionKey:
        now = self._clock.now()
        async with self._database.transaction(session.user_id) as connection:
            # It may have ended since it was validated; from here on it can't.
            last = await store.lock_active_session(connection, session.session_id, now)
            if last is None:
                raise session_invalid(InactiveReason.SESSION_REVOKED)
            wanted = SessionKey(
                key_id=SessionKeyId(uuid7(now)),
                session_id=session.session_id,
                user_id=session.user_id,
                purpose=request.purpose,
                public_key=request.public_key,
                create_time=now,
                expire_time=min(now + ttl, last),
            )
            key = await store.put(connection, wanted, self._max_keys)
            if key is None:
                raise limit_reached(self._max_keys)
            event = AuditEvent(
                AuditType.SESSION_KEY_ISSUE,
                call,
                session.user_id,
                session.session_id,
                proof.client,
                {
                    "key_id": str(key.key_id),
                    "kind": key.public_key.kind.value,
                    "purpose": key.purpose,
                    "expire_time": key.expire_time.isoformat(),
                },
            )
            await record_event(connection, now, event)
        return key

    async def _attest(self, key: SessionKey) -> AttestedKey:
        return AttestedKey(key, await self._statements.sign(key))
