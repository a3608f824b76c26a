"""Owns login attempts: on every path, an attempt is charged before it is evaluated.

Whether the account is unknown, locked or disabled or the proof is wrong, the same statements run
and the answer is the same (ASVS 6.3.8). Only the audit event shows the cause.

What can be guessed (passwords, short codes, authenticator apps, recovery codes) shares one budget,
which strangers can use up. What can't be guessed (a passkey's signature, a provider's answer, a
mailed reset code) neither takes from it nor needs it: it is charged to the client's network only,
so a user who has such a proof gets in, whatever others have tried (ASVS 6.1.1).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from types import MappingProxyType

import structlog
from cachetools import TTLCache

from authsvc.core.attempts.brute_force import BruteForce, ChargeReceipt
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.time_limit import is_expiry
from authsvc.errors import Reason, ServiceError, TooManyAttempts, credentials_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.users import UserStatus
from authsvc.store import users
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential, LoginSubject

log = structlog.get_logger(__name__)

# A throttled account and address is recorded once in so many seconds; so many pairs are cached.
_THROTTLED_PERIOD = 60.0
_MAX_THROTTLED = 10_000
# Stands for every device of a user who has proved the first factor by something that nobody else
# can have; no hash of a device is empty.
_VOUCHED = b""


class Cause(StrEnum):
    """Why an attempt failed; operators see it, the caller never does."""

    UNKNOWN = "unknown"
    PASSWORD = "password"  # noqa: S105 - a cause's name, not a password
    CODE = "code"
    FACTOR = "factor"
    PASSKEY = "passkey"
    TOKEN = "token"  # noqa: S105 - a cause's name, not a token
    LOCKED = "locked"
    DISABLED = "disabled"
    UNVERIFIED = "unverified"
    PASSWORD_CHANGE = "password_change"  # noqa: S105 - a cause's name


# Errors that are not a failure of the proof, but show that it was given.
_RECORDED: Mapping[Reason, Cause] = MappingProxyType(
    {
        Reason.EMAIL_NOT_VERIFIED: Cause.UNVERIFIED,
        Reason.PASSWORD_CHANGE_REQUIRED: Cause.PASSWORD_CHANGE,
    }
)


class Rejected(Exception):
    """The attempt failed; `Attempts.evaluate` turns this into the one answer to all failures.

    `failure` makes another answer, for a request of several parts that can each be wrong.
    """

    def __init__(self, cause: Cause, failure: Callable[[], ServiceError] | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at the account with the canonical address `account`, if there is one.

    `credential` is the active account's stored password, or None if the account is unknown,
    disabled or locked, so that no proof can succeed. `device` is the SHA-256 of the client's device
    id, and `network` the part of its ip that attempts are counted under. `vouched` means that the
    login's first factor was proved by something that can't be guessed.
    """

    call: Call
    account: str
    client: ClientContext
    device: bytes | None
    subject: LoginSubject | None
    credential: Credential | None
    network: str | None = None
    guessable: bool = True
    vouched: bool = False

    @property
    def known_device(self) -> bytes | None:
        """What is charged instead of the account; None for a stranger.

        It is the device that the user has logged in from before or, once the first factor is
        vouched for, any device.
        """
        if self.subject is None:
            return None
        if self.subject.known_device:
            return self.device
        return _VOUCHED if self.vouched and self.subject.known_may_fail else None

    @property
    def is_from_new_device(self) -> bool:
        """Whether the account's user has never logged in from the client's device."""
        known = self.subject is not None and self.subject.known_device
        return self.device is not None and not known

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
        # The callers that have sent attempts without their user's ip.
        self.callers_without_ip: set[str] = set()
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
        guessable: bool = True,
        vouched: bool = False,
    ) -> AsyncIterator[Attempt]:
        """Charge an attempt at the account with this canonical address, then run the block.

        The block evaluates the proof and raises `Rejected` if it is wrong: the attempt stays
        charged, is recorded, and `failure()` is raised. On success, and on any other error, which
        is not the user's failure, the charge is refunded. So it is if the call exceeds the
        service's own time limit before the proof was found to be wrong; an attempt that its caller
        cancels stays charged. The count of consecutive failures is separate: on success it is reset
        by `users.confirm` or decremented by `release`. EMAIL_NOT_VERIFIED
        and PASSWORD_CHANGE_REQUIRED are refunded but recorded.

        A proof that is not `guessable` is evaluated even after too many failures, and does not
        count as one. `vouched` is for the second factor of a login whose first was such a proof:
        it is counted with the known devices, as no stranger gets that far.

        Raises:
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        if client.ip is None:
            self._note_missing_ip(call.caller)
        device = device_hash(client)
        async with self._database.connection() as connection:
            subject = await users.find_login_subject(
                connection, account, device, self._brute_force.max_failures(known_device=True)
            )
        unclaimed = Attempt(
            call,
            account,
            client,
            device,
            subject,
            credential=None,
            network=self._brute_force.network(client),
            guessable=guessable,
            vouched=vouched,
        )
        admitting = asyncio.create_task(self._admit(unclaimed))
        try:
            attempt, receipt = await asyncio.shield(admitting)
        except asyncio.CancelledError as error:
            # Its statements go on, so that it is known what they charged.
            give_back = is_expiry(error)
            admitting.add_done_callback(partial(self._admitted_too_late, give_back=give_back))
            raise
        try:
            yield attempt
        except Rejected as rejected:
            await self._record_failure(attempt, rejected.cause)
            answer = rejected.failure or failure
            raise answer() from None
        except ServiceError as error:
            # Overloaded, StoreUnavailable: not the user's failure.
            await self._give_back(attempt, receipt)
            if error.reason in _RECORDED:
                await self._record_failure(attempt, _RECORDED[error.reason])
            raise
        except asyncio.CancelledError as error:
            if is_expiry(error):
                self._give_back_later(attempt, receipt)
            raise
        await receipt.refund()

    def _note_missing_ip(self, caller: str) -> None:
        if caller not in self.callers_without_ip:
            self.callers_without_ip.add(caller)
            log.warning(
                "client_ip_missing",
                caller=caller,
                effect="guesses at its users' accounts are limited by account alone",
                remedy="send client.ip",
            )

    async def forgive(self, attempt: Attempt) -> None:
        """Let the attempt's user log in next, in spite of what was charged to the account so far.

        For a proof that sets what the user will log in with. From the device on which the user gave
        it, strangers can't prevent that any more either, as it counts as known from now on.
        """
        await self._brute_force.forgive(attempt.account, attempt.client)

    async def _admit(self, attempt: Attempt) -> tuple[Attempt, ChargeReceipt]:
        """Charge and claim an attempt; return it with the account's credential."""
        receipt = await self._charge(attempt)
        try:
            return replace(attempt, credential=await self._claim(attempt)), receipt
        except ServiceError:
            await receipt.refund()
            raise

    def _admitted_too_late(
        self, admitting: asyncio.Task[tuple[Attempt, ChargeReceipt]], *, give_back: bool
    ) -> None:
        if not admitting.cancelled() and admitting.exception() is None and give_back:
            self._give_back_later(*admitting.result())

    async def _charge(self, attempt: Attempt) -> ChargeReceipt:
        try:
            if not attempt.guessable:
                return await self._brute_force.charge_proof(attempt.client)
            return await self._brute_force.charge_guess(
                attempt.account, attempt.client, attempt.known_device
            )
        except TooManyAttempts:
            # A flood is recorded once a minute: each event is a row, and must not fill the table.
            key = (attempt.account, attempt.client.ip)
            if key not in self._throttled:
                self._throttled[key] = True
                await self._record(attempt, AuditType.LOGIN_THROTTLED, {})
            raise

    async def _claim(self, attempt: Attempt) -> Credential | None:
        known = attempt.known_device is not None
        limit = self._brute_force.max_failures(known_device=known)
        async with self._database.connection(attempt.account) as connection:
            if not attempt.guessable:
                return await users.find_credential(connection, attempt.account)
            return await users.claim_attempt(connection, attempt.account, limit, known_device=known)

    async def _give_back(self, attempt: Attempt, receipt: ChargeReceipt) -> None:
        try:
            await self._brute_force.refunds.make(partial(self._release, attempt))
        except asyncio.CancelledError as error:
            if is_expiry(error):
                receipt.refund_later()
            raise
        await receipt.refund()

    def _give_back_later(self, attempt: Attempt, receipt: ChargeReceipt) -> None:
        self._brute_force.refunds.make_later(partial(self._release, attempt))
        receipt.refund_later()

    async def _release(self, attempt: Attempt) -> None:
        async with self._database.connection(attempt.account) as connection:
            await release(connection, attempt)

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
    counted = attempt.credential if attempt.guessable else None
    user_id = counted.user_id if counted is not None else None
    known = attempt.known_device is not None
    await users.release_attempt(connection, user_id, known_device=known)


def device_hash(client: ClientContext) -> bytes | None:
    """Return the SHA-256 of a client's device id, or None if it has none."""
    return hashlib.sha256(client.device_id.encode()).digest() if client.device_id else None
