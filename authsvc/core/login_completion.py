"""Owns the last step of every login: what one proof leads to, whichever way it was given."""

from collections.abc import Sequence

from authsvc.config import CodeSettings
from authsvc.core.attempts import Attempt
from authsvc.core.sessions import Sessions
from authsvc.errors import email_not_verified
from authsvc.models import Clock, LoginOutcome, User
from authsvc.store import devices
from authsvc.store.database import Connection


class LoginCompletion:
    """Completes logins."""

    def __init__(self, sessions: Sessions, codes: CodeSettings, clock: Clock) -> None:
        self._sessions = sessions
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
        """Log in an active user who proved by `methods` (RFC 8176) who it is.

        `multi_factor` says that the proof was of two factors. Within the caller's transaction,
        which confirmed the user (`users.confirm`) and so holds the user's row.

        Raises:
            NotPossibleNow: EMAIL_NOT_VERIFIED, if the settings ask for it.
        """
        if self._require_verified_email and user.email_verify_time is None:
            raise email_not_verified()
        if attempt.device is not None:
            await devices.remember(connection, user.user_id, attempt.device, self._clock.now())
        return await self._sessions.log_in(
            connection, attempt.call, user, attempt.client, methods=methods
        )
