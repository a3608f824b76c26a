"""Owns the verification that an e-mail address belongs to its account's user."""

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.lib.emails import parse_email
from authsvc.errors import code_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import emails
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database


class EmailVerification:
    """Verifies e-mail addresses."""

    def __init__(
        self, *, database: Database, codes: OneTimeCodes, attempts: Attempts, clock: Clock
    ) -> None:
        self._database = database
        self._codes = codes
        self._attempts = attempts
        self._clock = clock

    async def verify(self, call: Call, email: str, code: str, client: ClientContext) -> None:
        """Verify the address of an account with the code that was sent to it.

        Raises:
            FieldInvalid: EMAIL_INVALID.
            Unauthenticated: CODE_INVALID.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        account = parse_email(email).canonical
        async with self._attempts.evaluate(call, account, client, failure=code_invalid) as attempt:
            if not await self._claim(attempt, code):
                raise Rejected(attempt.cause(Cause.CODE))

    async def _claim(self, attempt: Attempt, code: str) -> bool:
        async with self._database.transaction(attempt.account) as connection:
            user_id = await self._codes.claim(connection, attempt, Purpose.VERIFY_EMAIL, code)
            if user_id is None:
                return False
            if await note_verified(connection, attempt, user_id, self._clock) is None:
                return False
            await release(connection, attempt)
            return True


async def note_verified(
    connection: Connection, attempt: Attempt, user_id: UserId, clock: Clock
) -> Addressee | None:
    """Record, once, that the user has proved to own the address; return the user's earlier state.

    Return None if the user was disabled or the address was changed meanwhile. Runs in the caller's
    transaction, in which the user's row stays locked.
    """
    now = clock.now()
    user = await emails.verify(connection, user_id, attempt.account, now)
    if user is not None and not user.verified:
        event = AuditEvent(AuditType.EMAIL_VERIFY, attempt.call, user_id, client=attempt.client)
        await record_event(connection, now, event)
    return user
