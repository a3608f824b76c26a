"""Owns the login by password: charged before it is evaluated, and alike for every account.

Whether the account is unknown, locked, disabled or has another password, the same statements run,
one password is hashed, and the answer is the same (ASVS 6.3.8). Only the audit event tells.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import structlog
from cachetools import TTLCache

from authsvc.core import audit
from authsvc.core.audit import AuditEvent, AuditType
from authsvc.core.brute_force import BruteForce, Ticket
from authsvc.core.emails import parse_email
from authsvc.core.hashing import PasswordHash, PasswordHasher, normalize_password
from authsvc.core.sessions import Sessions
from authsvc.errors import ServiceError, TooManyAttempts, credentials_invalid
from authsvc.models import Call, ClientContext, Clock, Tokens, UserStatus
from authsvc.store import devices, users
from authsvc.store.database import Database
from authsvc.store.users import Credential, LoginSubject

_METHODS = ("pwd",)  # RFC 8176
# Of how many accounts and addresses that are throttled it is known that it was recorded, and for
# how many seconds.
_REMEMBERED = 10_000
_ONCE_IN = 60.0

logger = structlog.get_logger(__name__)


class Cause(StrEnum):
    """Why a login failed: for operators, never for the caller."""

    UNKNOWN = "unknown"
    PASSWORD = "password"  # noqa: S105 - a cause's name, not a password
    LOCKED = "locked"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class _Attempt:
    call: Call
    account: str
    password: str = field(repr=False)
    client: ClientContext
    subject: LoginSubject | None
    device: bytes | None

    @property
    def known_device(self) -> bytes | None:
        return self.device if self.subject is not None and self.subject.known_device else None


class PasswordLogin:
    """Logs users in by e-mail address and password."""

    def __init__(
        self,
        database: Database,
        hasher: PasswordHasher,
        sessions: Sessions,
        guard: BruteForce,
        clock: Clock,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._sessions = sessions
        self._guard = guard
        self._clock = clock
        self._throttled: TTLCache[tuple[str, str | None], bool] = TTLCache(
            _REMEMBERED, _ONCE_IN, lambda: clock.now().timestamp()
        )

    async def login(self, call: Call, email: str, password: str, client: ClientContext) -> Tokens:
        """Open a session for the user with this e-mail address and password.

        Raises:
            FieldInvalid: It can't be an address or a password, whosever.
            Unauthenticated: CREDENTIALS_INVALID.
            TooManyAttempts: Too many logins failed before; this one was not evaluated.
            Overloaded: Too many passwords wait to be hashed.
        """
        normalize_password(password)
        attempt = await self._attempt(call, parse_email(email).canonical, password, client)
        ticket = await self._charge(attempt)
        try:
            outcome = await self._evaluate(attempt)
        except ServiceError:
            # Overloaded, StoreUnavailable: not the user's failure.
            await ticket.refund()
            raise
        if isinstance(outcome, Cause):
            await self._record(attempt, AuditType.LOGIN_FAILURE, {"cause": outcome.value})
            raise credentials_invalid()
        await ticket.refund()
        return outcome

    async def _attempt(
        self, call: Call, account: str, password: str, client: ClientContext
    ) -> _Attempt:
        device = hashlib.sha256(client.device_id.encode()).digest() if client.device_id else None
        async with self._database.connection() as connection:
            subject = await users.find_login_subject(
                connection, account, device, self._max_failures
            )
        return _Attempt(call, account, password, client, subject, device)

    async def _charge(self, attempt: _Attempt) -> Ticket:
        try:
            return await self._guard.charge_login(
                attempt.account, attempt.client, attempt.known_device
            )
        except TooManyAttempts:
            # A flood is one event a minute, as each is a row: who floods must not fill the table.
            key = (attempt.account, attempt.client.ip)
            if key not in self._throttled:
                self._throttled[key] = True
                await self._record(attempt, AuditType.LOGIN_THROTTLED, {})
            raise

    async def _evaluate(self, attempt: _Attempt) -> Tokens | Cause:
        claimed = await self._claim(attempt)
        try:
            return await self._compare(attempt, claimed)
        except ServiceError:
            await self._release(attempt, claimed)
            raise

    async def _compare(self, attempt: _Attempt, claimed: Credential | None) -> Tokens | Cause:
        current = claimed
        while True:
            verification = await self._hasher.verify(_hash(current), attempt.password)
            if current is None or not verification.matches:
                return _cause(attempt, claimed)
            tokens = await self._open(attempt, current)
            if tokens is not None:
                if verification.rehash:
                    await self._rehash(current, attempt.password)
                return tokens
            # The stored hash was replaced meanwhile: by another password, or by a parallel login
            # that hashed the same one anew. So the password is compared with what stands now.
            async with self._database.connection() as connection:
                current = await users.get_credential(connection, current.user_id)
            if current is None:
                return Cause.DISABLED

    async def _open(self, attempt: _Attempt, credential: Credential) -> Tokens | None:
        now = self._clock.now()
        async with self._database.transaction() as connection:
            user = await users.confirm_login(connection, credential)
            if user is None:
                return None
            if attempt.device is not None:
                await devices.remember(connection, user.user_id, attempt.device, now)
            return await self._sessions.log_in(
                connection, attempt.call, user, attempt.client, methods=_METHODS
            )

    async def _rehash(self, credential: Credential, password: str) -> None:
        try:
            replacement = await self._hasher.hash(password)
            async with self._database.connection() as connection:
                await users.replace_hash(
                    connection, credential, phc=replacement.phc, pepper_id=replacement.pepper_id
                )
        except ServiceError as error:
            # The user is logged in; the next login tries again.
            logger.warning("rehash_failed", reason=error.reason)

    async def _claim(self, attempt: _Attempt) -> Credential | None:
        device, limit = attempt.known_device, self._max_failures
        async with self._database.connection() as connection:
            if device is not None:
                return await devices.claim_attempt(connection, attempt.account, device, limit)
            return await users.claim_attempt(connection, attempt.account, limit)

    async def _release(self, attempt: _Attempt, claimed: Credential | None) -> None:
        user_id = claimed.user_id if claimed is not None else None
        try:
            async with self._database.connection() as connection:
                if attempt.known_device is not None:
                    await devices.release_attempt(connection, user_id, attempt.known_device)
                else:
                    await users.release_attempt(connection, user_id)
        except ServiceError as error:
            logger.warning("login_release_failed", reason=error.reason)

    async def _record(
        self, attempt: _Attempt, event_type: AuditType, detail: dict[str, str]
    ) -> None:
        user_id = attempt.subject.user_id if attempt.subject is not None else None
        event = AuditEvent(event_type, attempt.call, user_id, client=attempt.client, detail=detail)
        async with self._database.connection() as connection:
            await audit.record(connection, self._clock.now(), event)

    @property
    def _max_failures(self) -> int:
        return self._guard.max_consecutive_failures


def _hash(credential: Credential | None) -> PasswordHash | None:
    if credential is None or credential.phc is None or credential.pepper_id is None:
        return None
    return PasswordHash(credential.phc, credential.pepper_id)


def _cause(attempt: _Attempt, claimed: Credential | None) -> Cause:
    if attempt.subject is None:
        return Cause.UNKNOWN
    if attempt.subject.status is not UserStatus.ACTIVE:
        return Cause.DISABLED
    return Cause.LOCKED if claimed is None else Cause.PASSWORD
