"""Owns the login by password."""

import structlog

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.lib.emails import parse_email
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, normalize_password
from authsvc.errors import ServiceError, password_change_required
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.factors import LoginOutcome
from authsvc.models.incidents import LoginMethod
from authsvc.store import users
from authsvc.store.postgres.database import Database
from authsvc.store.users import Credential

_METHODS = ("pwd",)  # RFC 8176

log = structlog.get_logger(__name__)


class PasswordLogin:
    """Logs users in by e-mail address and password."""

    def __init__(
        self,
        *,
        database: Database,
        hasher: PasswordHasher,
        attempts: Attempts,
        freezes: LoginFreezes,
        completion: LoginCompletion,
        clock: Clock,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._attempts = attempts
        self._freezes = freezes
        self._completion = completion
        self._clock = clock

    async def log_in(
        self, call: Call, email: str, password: str, client: ClientContext
    ) -> LoginOutcome:
        """Log in the user with this e-mail address and password.

        Raises:
            FieldInvalid: The address or the password is not valid, whoever's it is.
            Unauthenticated: CREDENTIALS_INVALID.
            FailedPrecondition: EMAIL_NOT_VERIFIED; PASSWORD_CHANGE_REQUIRED: an operator decided
                that this password, which is right, opens no session any more; LOGIN_FROZEN.
            TooManyAttempts: Too many logins failed before; this one was not evaluated.
            Overloaded: Too many passwords are waiting to be hashed.
        """
        normalize_password(password)
        account = parse_email(email).canonical
        async with self._attempts.evaluate(call, account, client) as attempt:
            return await self._compare(attempt, password)

    async def _compare(self, attempt: Attempt, password: str) -> LoginOutcome:
        current = attempt.credential
        while True:
            verification = await self._hasher.verify(stored_hash(current), password)
            # It may have waited for seconds to be hashed. Right or wrong: a freeze must not tell.
            await self._freezes.require_open(LoginMethod.PASSWORD, attempt.client)
            if current is None or not verification.matches:
                raise Rejected(attempt.cause(Cause.PASSWORD))
            outcome = await self._complete(attempt, current)
            if outcome is not None:
                if verification.rehash:
                    await self._rehash(current, password)
                return outcome
            # The stored hash was replaced in the meantime: by another password, or by a parallel
            # login that rehashed the same one. So the password is compared with the current hash.
            async with self._database.connection() as connection:
                current = await users.get_credential(connection, current.user_id)
            if current is None:
                raise Rejected(Cause.DISABLED)

    async def _complete(self, attempt: Attempt, credential: Credential) -> LoginOutcome | None:
        async with self._database.transaction(attempt.account) as connection:
            user = await users.confirm_login(connection, credential, self._clock.now())
            if user is None:
                return None
            if user.password_change_required:
                raise password_change_required()
            return await self._completion.complete(connection, attempt, user, _METHODS)

    async def _rehash(self, credential: Credential, password: str) -> None:
        try:
            replacement = await self._hasher.hash(password)
            async with self._database.connection(credential.user_id) as connection:
                await users.replace_hash(
                    connection, credential, phc=replacement.phc, pepper_id=replacement.pepper_id
                )
        except ServiceError as error:
            # The user is logged in; the next login tries again.
            log.warning("rehash_failed", reason=error.reason)


def stored_hash(credential: Credential | None) -> PasswordHash | None:
    """Return the hash to compare a password with, or None if there is none."""
    if credential is None or credential.phc is None:
        return None
    return PasswordHash(credential.phc, credential.pepper_id)
