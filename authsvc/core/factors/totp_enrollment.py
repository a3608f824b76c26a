"""Owns the enrolment of authenticator apps by logged-in users."""

from authsvc.config import SecondFactorSettings
from authsvc.core.attempts import attempts as counting
from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.factors.changes import FactorChange, FactorChanges, lock_user_for_new_factor
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.totp import Totp
from authsvc.errors import code_invalid, factor_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.factors import FactorKind, TotpEnrollment
from authsvc.models.ids import FactorId
from authsvc.models.tokens import Claims
from authsvc.models.users import LockedUser
from authsvc.store import factors
from authsvc.store.factors import Seed
from authsvc.store.postgres.database import Connection, Database


class TotpEnrollments:
    """Starts and completes the enrolment of authenticator apps."""

    def __init__(
        self,
        *,
        database: Database,
        settings: SecondFactorSettings,
        recent_login: RecentLogin,
        attempts: Attempts,
        totp: Totp,
        recovery_codes: RecoveryCodes,
        changes: FactorChanges,
    ) -> None:
        self._database = database
        self._max_per_user = settings.max_per_user
        self._recent_login = recent_login
        self._attempts = attempts
        self._totp = totp
        self._recovery_codes = recovery_codes
        self._changes = changes

    async def enroll(self, claims: Claims, name: str) -> TotpEnrollment:
        """Create an authenticator app for the user; it is not used until it is confirmed.

        Raises:
            Unauthenticated: BEARER_INVALID: the user is disabled or deleted.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, EMAIL_NOT_VERIFIED, LIMIT_REACHED.
        """
        self._recent_login.require(claims)
        async with self._database.transaction(claims.subject) as connection:
            user = await self._lock_user(connection, claims)
            return await self._totp.enroll(connection, user.user_id, user.email, name)

    async def confirm(
        self, call: Call, claims: Claims, factor_id: FactorId, code: str, client: ClientContext
    ) -> list[str]:
        """Confirm the app; return ten recovery codes if the user had none, otherwise none.

        Raises:
            NotFound: FACTOR_NOT_FOUND: the user has no such unconfirmed app.
            Unauthenticated: CODE_INVALID; BEARER_INVALID: the user is disabled or deleted.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, EMAIL_NOT_VERIFIED, LIMIT_REACHED.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        self._recent_login.require(claims)
        user_id = claims.subject
        async with self._database.transaction(user_id) as connection:
            # A call that can't succeed is no attempt; `_confirm` checks again before it uses the
            # code.
            await self._lock_user(connection, claims)
            found = await factors.find_unconfirmed(connection, factor_id, user_id)
        if found is None:
            raise factor_not_found()
        seed, account = found
        async with (
            self._attempts.evaluate(call, account, client, failure=code_invalid) as attempt,
            self._database.transaction(user_id) as connection,
        ):
            return await self._confirm(connection, attempt, claims, seed, code)

    async def _confirm(
        self, connection: Connection, attempt: Attempt, claims: Claims, seed: Seed, code: str
    ) -> list[str]:
        user_id = claims.subject
        user = await self._lock_user(connection, claims)
        if await factors.find_unconfirmed(connection, seed.factor_id, user_id) is None:
            raise factor_not_found()  # A parallel call confirmed or replaced it.
        right = await self._totp.confirm(connection, user_id, seed, code)
        if not right or attempt.credential is None:
            raise Rejected(attempt.cause(Cause.FACTOR))
        # Not a failure, but not a login either, which would reset earlier failures.
        await counting.release(connection, attempt)
        change = FactorChange(
            attempt.call, user_id, user.email, seed.factor_id, FactorKind.TOTP, attempt.client
        )
        await self._changes.added(connection, change)
        return await self._recovery_codes.ensure(connection, user_id)

    async def _lock_user(self, connection: Connection, claims: Claims) -> LockedUser:
        return await lock_user_for_new_factor(
            connection, claims, self._recent_login, self._max_per_user
        )
