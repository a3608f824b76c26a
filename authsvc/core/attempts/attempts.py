"""Owns attempts to prove who one is: each is charged before it is evaluated, on every path alike.

Whether the account is unknown, locked, disabled or the proof is wrong, the same statements run and
the answer is the same (ASVS 6.3.8). Only the audit event tells.
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

# Of how many accounts and addresses that are throttled it is known that it was recorded, and for
# how many seconds.
_REMEMBERED = 10_000
_ONCE_IN = 60.0
_NO_LIMIT = 2**31 - 1

log = structlog.get_logger(__name__)


class Cause(StrEnum):
    """Why an attempt failed: for operators, never for the caller."""

    UNKNOWN = "unknown"
    PASSWORD = "password"  # noqa: S105 - a cause's name, not a password
    CODE = "code"
    FACTOR = "factor"
    PASSKEY = "passkey"
    LOCKED = "locked"
    DISABLED = "disabled"
    UNVERIFIED = "unverified"


class Rejected(Exception):
    """The attempt failed: `Attempts.evaluate` turns it into its one answer."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: at the account with the canonical address `account`, if there is one.

    `credential` is the active account's stored password; None if no proof can help: the account is
    unknown, disabled or locked. `device` is the SHA-256 of the client's device id.
    """

    call: Call
    account: str
    client: ClientContext
    device: bytes | None
    subject: LoginSubject | None
    credential: Credential | None

    @property
    def known_device(self) -> bytes | None:
        """The device, if the user logged in from it before."""
        return self.device if self.subject is not None and self.subject.known_device else None

    def cause(self, cause: Cause) -> Cause:
        """Return why the attempt failed if its proof was wrong because of `cause`."""
        if self.subject is None:
            return Cause.UNKNOWN
        if self.subject.status is not UserStatus.ACTIVE:
            return Cause.DISABLED
        return Cause.LOCKED if self.credential is None else cause


class Attempts:
    """Counts attempts, over all ways to log in."""

    def __init__(self, database: Database, brute_force: BruteForce, clock: Clock) -> None:
        self._database = database
        self._brute_force = brute_force
        self._clock = clock
        self._throttled: TTLCache[tuple[str, str | None], bool] = TTLCache(
            _REMEMBERED, _ONCE_IN, lambda: clock.now().timestamp()
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
        """Charge an attempt at the account with this canonical address, then let it be evaluated.

        The block raises `Rejected` if the proof was wrong: the attempt stays counted, is recorded,
        and `failure()` is raised. Any other error is not the user's failure, and the attempt is
        given back; so it is when the block succeeds, except for the count of consecutive failures,
        which is for `users.confirm` to reset or `release` to take back. EMAIL_NOT_VERIFIED is
        recorded all the same. An attempt that `unlocks` is evaluated also after too many
        consecutive failures.

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
            if error.reason is Reason.USER_NOT_FOUND:
                # The account was deleted meanwhile: the answer is that of one that never was.
                raise failure() from None
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
            # A flood is one event a minute, as each is a row: who floods must not fill the table.
            key = (attempt.account, attempt.client.ip)
            if key not in self._throttled:
                self._throttled[key] = True
                await self._record(attempt, AuditType.LOGIN_THROTTLED, {})
            raise

    async def _claim(self, attempt: Attempt, *, unlocks: bool) -> Credential | None:
        known = attempt.known_device is not None
        limit = _NO_LIMIT if unlocks else self._brute_force.max_failures(known_device=known)
        async with self._database.connection() as connection:
            return await users.claim_attempt(connection, attempt.account, limit, known_device=known)

    async def _release(self, attempt: Attempt) -> None:
        try:
            async with self._database.connection() as connection:
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
    """Take back the attempt's count as a consecutive failure, within the caller's transaction."""
    user_id = attempt.credential.user_id if attempt.credential is not None else None
    known = attempt.known_device is not None
    await users.release_attempt(connection, user_id, known_device=known)


def device_hash(client: ClientContext) -> bytes | None:
    """Return the SHA-256 by which a client's device is known; None: it has no name."""
    return hashlib.sha256(client.device_id.encode()).digest() if client.device_id else None
