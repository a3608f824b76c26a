"""Owns the change of a password by its user.

A stolen access token must not help to guess the password: a change counts as an attempt to log in,
under the limits that all ways to log in share (ASVS 6.2.3, 6.3.1).
"""

from dataclasses import dataclass, field

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.login.password import stored_hash
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.passwords.acceptance import PasswordAcceptance
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, normalize_password
from authsvc.core.sessions.ending import SessionEnding
from authsvc.errors import FieldInvalid, credentials_invalid, user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.revocations import EndedSessions
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Claims
from authsvc.store import devices, revocations, users
from authsvc.store import password_change as store
from authsvc.store.password_change import PasswordAccount, Replacement
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential

_CURRENT = "current_password"
_NEW = "new_password"


@dataclass(frozen=True, slots=True)
class NewPassword:
    """A request to change a password; `current` is "" if the account has none."""

    current: str = field(repr=False)
    new: str = field(repr=False)
    end_other_sessions: bool = False
    client: ClientContext = field(default_factory=ClientContext)


class PasswordChange:
    """Changes passwords, and sets the first one of an account that has none."""

    def __init__(
        self,
        *,
        database: Database,
        hasher: PasswordHasher,
        acceptance: PasswordAcceptance,
        attempts: Attempts,
        recent_login: RecentLogin,
        sessions: SessionEnding,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._acceptance = acceptance
        self._attempts = attempts
        self._recent_login = recent_login
        self._sessions = sessions
        self._outbox = outbox
        self._clock = clock

    async def change(self, call: Call, claims: Claims, request: NewPassword) -> EndedSessions:
        """Set the new password of the token's user; return how many other sessions were ended.

        Raises:
            FieldInvalid: PASSWORD_WEAK, also if it is the current one; or the password is
                malformed.
            Unauthenticated: CREDENTIALS_INVALID; BEARER_INVALID: the session was ended meanwhile.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, if the account has no password.
            NotFound: USER_NOT_FOUND.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
            Overloaded: Too many passwords are waiting to be hashed.
            ProviderUnavailable: Whether the password was breached can't be found out.
        """
        async with self._database.connection() as connection:
            account = await store.find_account(connection, claims.subject)
        if account is None:
            raise user_not_found()
        if account.has_password and not request.current:
            raise FieldInvalid(_CURRENT, "must not be empty")
        change = _Change(call, claims, request, account)
        if not account.has_password and not request.current:
            return await self._set_first(change)
        async with self._attempts.evaluate(
            call, account.email_canonical, request.client
        ) as attempt:
            # Checked before the current password is verified: afterwards, an error would only tell
            # a thief of the token that a guess was right.
            await self._check(change)
            return await self._replace(change, attempt)

    async def _check(self, change: "_Change") -> None:
        request, account = change.request, change.account
        if request.current and _same(request.current, request.new):
            raise FieldInvalid.weak_password(
                _NEW, ["Choose a password other than the current one."]
            )
        await self._acceptance.check(
            request.new, field=_NEW, email=account.email, display_name=account.display_name
        )

    async def _set_first(self, change: "_Change") -> EndedSessions:
        self._recent_login.require(change.claims)
        await self._check(change)
        new = await self._hasher.hash(change.request.new)
        ended = await self._store(change, None, new)
        if ended is None:
            raise credentials_invalid()
        return ended

    async def _replace(self, change: "_Change", attempt: Attempt) -> EndedSessions:
        current = _own(attempt.credential, change)
        new: PasswordHash | None = None
        while True:
            verification = await self._hasher.verify(stored_hash(current), change.request.current)
            if current is None or not verification.matches:
                raise Rejected(attempt.cause(Cause.PASSWORD))
            # Hashed before the transaction, so that no connection waits for it.
            new = new or await self._hasher.hash(change.request.new)
            ended = await self._store(change, current.phc, new, attempt)
            if ended is not None:
                return ended
            # The stored hash was replaced meanwhile, by another password or by a login that
            # rehashed the same one. So the current password is verified again, with the new hash.
            async with self._database.connection() as connection:
                current = await users.get_credential(connection, change.claims.subject)

    async def _store(
        self,
        change: "_Change",
        expected: str | None,
        new: PasswordHash,
        attempt: Attempt | None = None,
    ) -> EndedSessions | None:
        """Store the new password with all consequences; return None if `expected` is outdated."""
        user_id = change.claims.subject
        replacement = Replacement(expected, new.phc, new.pepper_id)
        async with self._database.transaction(user_id) as connection:
            if not await store.replace(connection, user_id, replacement, self._clock.now()):
                return None
            await self._recent_login.require_live(connection, change.claims.session_id)
            if attempt is not None:
                await release(connection, attempt)
            await store.delete_reset_codes(connection, user_id)
            await devices.forget_trust(connection, user_id)
            return await self._complete(connection, change)

    async def _complete(self, connection: Connection, change: "_Change") -> EndedSessions:
        call, claims, request = change.call, change.claims, change.request
        ended = 0
        if request.end_other_sessions:
            ended = await self._sessions.revoke_in(
                connection, call, claims.subject, RevokeReason.PASSWORD_CHANGED, claims.session_id
            )
        notice = Message(MessageKind.PASSWORD_CHANGED, change.account.email, claims.subject)
        await self._outbox.enqueue(connection, notice)
        event = AuditEvent(
            AuditType.PASSWORD_CHANGE, call, claims.subject, claims.session_id, request.client
        )
        await record_event(connection, self._clock.now(), event)
        return EndedSessions(ended, revocations.noted(connection))


@dataclass(frozen=True, slots=True)
class _Change:
    call: Call
    claims: Claims
    request: NewPassword
    account: PasswordAccount


def _same(one: str, other: str) -> bool:
    return normalize_password(one, _CURRENT) == normalize_password(other, _NEW)


def _own(credential: Credential | None, change: _Change) -> Credential | None:
    """Return the credential if it is the token's user's; another user may have the address now."""
    if credential is None or credential.user_id != change.claims.subject:
        return None
    return credential
