"""Owns the login by a code sent to the user's address, which is one factor, like a password."""

from uuid import UUID

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.codes.redemption import CodeProofs
from authsvc.core.login.completion import LoginCompletion
from authsvc.errors import code_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.factors import LoginOutcome
from authsvc.store.postgres.database import Database

_METHODS = ("otp",)  # RFC 8176


class CodeLogin:
    """Logs users in by a code."""

    def __init__(
        self,
        *,
        database: Database,
        codes: OneTimeCodes,
        proofs: CodeProofs,
        attempts: Attempts,
        completion: LoginCompletion,
    ) -> None:
        self._database = database
        self._codes = codes
        self._proofs = proofs
        self._attempts = attempts
        self._completion = completion

    async def log_in(
        self, call: Call, challenge_id: UUID, code: str, client: ClientContext
    ) -> LoginOutcome:
        """Log in the user whose code was created by the request `challenge_id`.

        The code also proves that the address is the user's. The first such proof removes all other
        credentials, as the account may have been created by somebody else.

        Raises:
            Unauthenticated: CODE_INVALID.
            FailedPrecondition: EMAIL_NOT_VERIFIED, if the settings require a verified address and
                a second factor, which no code bypasses, left the account unchanged.
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
        async with self._database.transaction(attempt.account) as connection:
            proof = await self._proofs.claim(
                connection, attempt, Purpose.LOGIN, code, code_id=challenge_id
            )
            if proof is None:
                return None
            return await self._completion.complete(connection, attempt, proof.user, _METHODS)
