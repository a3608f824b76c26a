"""Owns the last step of every login: a session, or a challenge for a second factor."""

from collections.abc import Sequence

from authsvc.config import CodeSettings
from authsvc.core.attempts.attempts import Attempt
from authsvc.core.factors.challenges import SecondFactors
from authsvc.core.sessions.opening import SessionOpening
from authsvc.errors import email_not_verified
from authsvc.models.clock import Clock
from authsvc.models.factors import LoginOutcome
from authsvc.models.tokens import Tokens
from authsvc.models.users import User
from authsvc.store import devices, users
from authsvc.store.postgres.database import Connection

_MULTI_FACTOR = "mfa"  # RFC 8176


class LoginCompletion:
    """Completes logins."""

    def __init__(
        self,
        *,
        sessions: SessionOpening,
        second_factors: SecondFactors,
        codes: CodeSettings,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._second_factors = second_factors
        self._require_verified_email = codes.require_verified_email
        self._clock = clock

    async def complete(
        self,
        connection: Connection,
        attempt: Attempt,
        user: User,
        methods: Sequence[str],
        *,
        multi_factor: bool = False,
    ) -> LoginOutcome:
        """Log in an active user authenticated by `methods` (RFC 8176), or ask for a second factor.

        `multi_factor` means that two factors were proved. Runs in the caller's transaction, which
        has confirmed the user (`users.confirm`) and so locked the user's row.

        Raises:
            FailedPrecondition: EMAIL_NOT_VERIFIED, if the settings require a verified address, or
                a second factor that the user would have to enroll.
        """
        if self._require_verified_email and user.email_verify_time is None:
            raise email_not_verified()
        if multi_factor:
            return await self.log_in_multi_factor(connection, attempt, user, methods)
        if await self._second_factors.are_asked_for(connection, attempt, user):
            return await self._second_factors.challenge(connection, attempt, user, methods)
        return await self._log_in(connection, attempt, user, methods)

    async def log_in_multi_factor(
        self, connection: Connection, attempt: Attempt, user: User, methods: Sequence[str]
    ) -> Tokens:
        """Log in an active user who proved two factors; otherwise like `complete`."""
        every = tuple(dict.fromkeys((*methods, _MULTI_FACTOR)))
        return await self._log_in(connection, attempt, user, every)

    async def _log_in(
        self, connection: Connection, attempt: Attempt, user: User, methods: Sequence[str]
    ) -> Tokens:
        if user.has_second_factor:
            # Without one, confirming the first factor has already reset them.
            await users.reset_failures(connection, user.user_id)
        if attempt.device is not None:
            await devices.remember(connection, user.user_id, attempt.device, self._clock.now())
        return await self._sessions.log_in(
            connection,
            attempt.call,
            user,
            attempt.client,
            methods=methods,
            new_device=attempt.is_from_new_device,
        )
