"""Owns login attempts: on every path, an attempt is charged before it is evaluated.

Whether the account is unknown, locked or disabled or the proof is wrong, the same statements run
and the answer is the same (ASVS 6.3.8). Only the audit event shows the cause.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import structlog
from cachetools import TTLCache

from authsvc.core.attempts.brute_force import BruteForce, ChargeReceipt
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.errors import Reason, ServiceError, TooManyAttempts, credentials_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.users import UserStatus
from authsvc.store import users
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential, LoginSubject

# A throttled account and address is recorded once in so many seconds; so many pairs are cached.
_THROTTLED_PERIOD = 60.0
_MAX_THROTTLED = 10_000
_NO_LIMIT = 2**31 - 1

log = structlog.get_logger(__name__)


class Cause(StrEnum):
    """Why an attempt failed; operators see it, the caller never does."""

    UNKNOWN = "unknown"
    PASSWORD = "password"  # noqa: S105 - a cause's name, not a password
    CODE = "code"
    FACTOR = "factor"
    PASSKEY = "passkey"
    LOCKED = "locked"
    DISABLED = "disabled"
    UNVERIFIED = "unverified"


class Rejected(Exception):
    """The attempt failed; `Attempts.evaluate` turns this into the one answer to all failures."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at the account with the canonical address `account`, if there is one.

    `credential` is the active account's stored password, or None if the account is unknown,
    disabled or locked, so that no proof can succeed. `device` is the SHA-256 of the client's device
    id.
    """

    call: Call
    account: str
    client: ClientContext
    device: bytes | None
    subject: LoginSubject | None
    credential: Credential | None

    @property
    def known_device(self) -> bytes | None:
        """The device, if the user has logged in from it before."""
        return self.device if self.subject is not None and self.subject.known_device else None

    def cause(self, cause: Cause) -> Cause:
        """Return why the attempt failed: `cause`, unless the account itself ruled success out."""
        if self.subject is None:
            return Cause.UNKNOWN
        if self.subject.status is not UserStatus.ACTIVE:
            return Cause.DISABLED
        return Cause.LOCKED if self.credential is None else cause


class Attempts:
    """Charges, claims and records attempts, on all login paths."""

    def __init__(self, database: Database, brute_force: BruteForce, clock: Clock) -> None:
        self._database = database
        self._brute_force = brute_force
        self._clock = clock
        self._throttled: TTLCache[tuple[str, str | None], bool] = TTLCache(
            _MAX_THROTTLED, _THROTTLED_PERIOD, lambda: clock.now().timestamp()
        )

    @asynccontextmanager
    async def evaluate(
        self,
        call: Call,
        account: str,
        client: ClientContext,
        *,
        failure: Callable[[], ServiceError] = credentials_invalid,
        unlocks: bool = False,
    ) -> AsyncIterator[Attempt]:
        """Charge an attempt at the account with this canonical address, then run the block.

        The block evaluates the proof and raises `Rejected` if it is wrong: the attempt stays
        charged, is recorded, and `failure()` is raised. On success, and on any other error, which
        is not the user's failure, the charge is refunded. The count of consecutive failures is
        separate: on success it is reset by `users.confirm` or decremented by `release`.
        EMAIL_NOT_VERIFIED is refunded but recorded. With `unlocks`, the attempt is evaluated even
        after too many consecutive failures.

        Raises:
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        device = device_hash(client)
        async with self._database.connection() as connection:
            subject = await users.find_login_subject(
                connection, account, device, self._brute_force.max_failures(known_device=True)
            )
        unclaimed = Attempt(call, account, client, device, subject, None)
        receipt = await self._charge(unclaimed)
        try:
            claimed = await self._claim(unclaimed, unlocks=unlocks)
        except ServiceError:
            await receipt.refund()
            raise
        attempt = Attempt(call, account, client, device, subject, claimed)
        try:
            yield attempt
        except Rejected as rejected:
            await self._record_failure(attempt, rejected.cause)
            raise failure() from None
        except ServiceError as error:
            # Overloaded, StoreUnavailable: not the user's failure.
            await self._release(attempt)
            await receipt.refund()
            if error.reason is Reason.EMAIL_NOT_VERIFIED:
                await self._record_failure(attempt, Cause.UNVERIFIED)
            raise
        await receipt.refund()

    async def _charge(self, attempt: Attempt) -> ChargeReceipt:
        try:
            return await self._brute_force.charge_login(
                attempt.account, attempt.client, attempt.known_device
            )
        except TooManyAttempts:
            # A flood is recorded once a minute: each event is a row, and must not fill the table.
            key = (attempt.account, attempt.client.ip)
            if key not in self._throttled:
                self._throttled[key] = True
                await self._record(attempt, AuditType.LOGIN_THROTTLED, {})
            raise

    async def _claim(self, attempt: Attempt, *, unlocks: bool) -> Credential | None:
        known = attempt.known_device is not None
        limit = _NO_LIMIT if unlocks else self._brute_force.max_failures(known_device=known)
        async with self._database.connection(attempt.account) as connection:
            return await users.claim_attempt(connection, attempt.account, limit, known_device=known)

    async def _release(self, attempt: Attempt) -> None:
        try:
            async with self._database.connection(attempt.account) as connection:
                await release(connection, attempt)
        except ServiceError as error:
            log.warning("login_release_failed", reason=error.reason)

    async def _record_failure(self, attempt: Attempt, cause: Cause) -> None:
        await self._record(attempt, AuditType.LOGIN_FAILURE, {"cause": cause.value})

    async def _record(
        self, attempt: Attempt, event_type: AuditType, detail: dict[str, str]
    ) -> None:
        user_id = attempt.subject.user_id if attempt.subject is not None else None
        event = AuditEvent(event_type, attempt.call, user_id, client=attempt.client, detail=detail)
        async with self._database.connection() as connection:
            await record_event(connection, self._clock.now(), event)


async def release(connection: Connection, attempt: Attempt) -> None:
    """Decrement the consecutive failures by this attempt, within the caller's transaction."""
    user_id = attempt.credential.user_id if attempt.credential is not None else None
    known = attempt.known_device is not None
    await users.release_attempt(connection, user_id, known_device=known)


def device_hash(client: ClientContext) -> bytes | None:
    """Return the SHA-256 of a client's device id, or None if it has none."""
    return hashlib.sha256(client.device_id.encode()).digest() if client.device_id else None
