"""Owns the login by a code that was sent to the user's address: one factor, as a password is."""

from uuid import UUID

from authsvc.core.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.login_completion import LoginCompletion
from authsvc.core.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.verification import note_verified
from authsvc.errors import code_invalid
from authsvc.models import Call, ClientContext, Clock, LoginOutcome
from authsvc.store import users
from authsvc.store.database import Database

_METHODS = ("otp",)  # RFC 8176


class CodeLogin:
    """Logs users in by a code."""

    def __init__(
        self,
        database: Database,
        codes: OneTimeCodes,
        attempts: Attempts,
        completion: LoginCompletion,
        clock: Clock,
    ) -> None:
        self._database = database
        self._codes = codes
        self._attempts = attempts
        self._completion = completion
        self._clock = clock

    async def login(
        self, call: Call, challenge_id: UUID, code: str, client: ClientContext
    ) -> LoginOutcome:
        """Log in the user whose code was made by the request `challenge_id`.

        It also proves that the address is the user's.

        Raises:
            Unauthenticated: CODE_INVALID.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        async with self._database.connection() as connection:
            account = await self._codes.find_account(connection, Purpose.LOGIN, challenge_id)
        async with self._attempts.evaluate(call, account, client, failure=code_invalid) as attempt:
            outcome = await self._claim(attempt, challenge_id, code)
            if outcome is None:
                raise Rejected(attempt.cause(Cause.CODE))
            return outcome

    async def _claim(self, attempt: Attempt, challenge_id: UUID, code: str) -> LoginOutcome | None:
        async with self._database.transaction() as connection:
            user_id = await self._codes.claim(
                connection, attempt, Purpose.LOGIN, code, code_id=challenge_id
            )
            if user_id is None:
                return None
            if await note_verified(connection, attempt, user_id, self._clock) is None:
                return None
            user = await users.confirm(connection, user_id)
            if user is None:
                return None
            return await self._completion.complete(connection, attempt, user, _METHODS)
