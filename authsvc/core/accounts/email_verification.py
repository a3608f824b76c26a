"""Owns the verification that an e-mail address belongs to its account's user.

Whoever reads the code at an address for the first time owns the address, but may not have created
the account. So the code alone transfers the account, as a login by code does: what was set before
is removed, and the owner is sent a code to set a password. Only a proof that comes with the code,
of being the one who set the password, keeps what was set.
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.codes.redemption import note_verified
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.lib.emails import parse_email
from authsvc.core.login.password import stored_hash
from authsvc.core.passwords.hashing import PasswordHasher, normalize_password
from authsvc.core.tokens.validation import TokenValidation
from authsvc.errors import Unauthenticated, code_invalid, credentials_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.messages import Delivery
from authsvc.models.users import LockedUser
from authsvc.store import sessions, users
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential


@dataclass(frozen=True, slots=True)
class RegistrationToken:
    """What the account's registration answered."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token of the account."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Password:
    """The account's password."""

    password: str = field(repr=False)


OwnerProof: TypeAlias = RegistrationToken | AccessToken | Password


@dataclass(frozen=True, slots=True)
class _Proved:
    """What a proof relied on, which must still hold when the code is used."""

    credential: Credential
    session_id: SessionId | None = None


class _PasswordChanged(Exception):
    """The password that the proof relied on was replaced meanwhile."""


class EmailVerification:
    """Verifies e-mail addresses."""

    def __init__(
        self,
        *,
        database: Database,
        codes: OneTimeCodes,
        requests: CodeRequests,
        attempts: Attempts,
        reclaim: AccountReclaim,
        registration_tokens: RegistrationTokens,
        tokens: TokenValidation,
        hasher: PasswordHasher,
        clock: Clock,
    ) -> None:
        self._database = database
        self._codes = codes
        self._requests = requests
        self._attempts = attempts
        self._reclaim = reclaim
        self._registration_tokens = registration_tokens
        self._tokens = tokens
        self._hasher = hasher
        self._clock = clock

    async def verify(
        self, call: Call, email: str, code: str, client: ClientContext, proof: OwnerProof | None
    ) -> bool:
        """Verify the address of an account with the code that was sent to it.

        Return whether what was set before was removed: password, sessions, API keys, identities,
        devices and name. That happens at the first verification without a proof. A wrong proof
        fails before the code is looked at, so the code stays valid and its tries aren't used up.

        Raises:
            FieldInvalid: EMAIL_INVALID, or the password of the proof is malformed.
            Unauthenticated: CODE_INVALID; CREDENTIALS_INVALID, if the proof is wrong.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
            Overloaded: Too many passwords are waiting to be hashed.
        """
        if isinstance(proof, Password):
            normalize_password(proof.password)
        account = parse_email(email).canonical
        async with self._attempts.evaluate(call, account, client, failure=code_invalid) as attempt:
            credential = attempt.credential
            while True:
                proved = await self._prove(attempt, credential, proof) if proof else None
                try:
                    removed = await self._redeem(attempt, code, proved)
                except _PasswordChanged:
                    # By another password, or by a login that rehashed the same one.
                    credential = await self._reread(credential)
                    continue
                if removed is None:
                    raise Rejected(attempt.cause(Cause.CODE))
                return removed

    async def _prove(
        self, attempt: Attempt, credential: Credential | None, proof: OwnerProof
    ) -> _Proved:
        session_id: SessionId | None = None
        match proof:
            case RegistrationToken(token):
                cause, holds = Cause.TOKEN, self._registration_tokens.show_owner(token, credential)
            case AccessToken(token):
                session_id = await self._session_of(token, credential)
                cause, holds = Cause.TOKEN, session_id is not None
            case Password(password):
                verification = await self._hasher.verify(stored_hash(credential), password)
                cause, holds = Cause.PASSWORD, verification.matches
        if not holds or credential is None:
            raise Rejected(attempt.cause(cause), credentials_invalid)
        return _Proved(credential, session_id)

    async def _session_of(self, token: str, credential: Credential | None) -> SessionId | None:
        """Return the session of an access token of this account."""
        try:
            claims = await self._tokens.bearer(token)
        except Unauthenticated:
            return None
        is_own = credential is not None and claims.subject == credential.user_id
        return claims.session_id if is_own else None

    async def _reread(self, credential: Credential | None) -> Credential | None:
        if credential is None:
            return None
        async with self._database.connection() as connection:
            return await users.get_credential(connection, credential.user_id)

    async def _redeem(self, attempt: Attempt, code: str, proved: _Proved | None) -> bool | None:
        """Use up the code; return whether what was set before was removed, or None if it is wrong.

        What is raised rolls back, so that the code stays valid.
        """
        async with self._database.transaction(attempt.account) as connection:
            user_id = await self._codes.claim(connection, attempt, Purpose.VERIFY_EMAIL, code)
            if user_id is None:
                return None
            user = await users.lock_user(connection, user_id)
            if user is None:
                return None
            if proved is not None:
                await self._require(connection, attempt, user, proved)
            elif user.has_second_factor and user.email_verify_time is None:
                # As in `redemption`: whoever reads the mail but lacks the factor gets nothing.
                raise Rejected(attempt.cause(Cause.FACTOR))
            addressee = await note_verified(connection, attempt, user_id, self._clock)
            if addressee is None:
                return None
            remove = proved is None and not addressee.verified
            if remove:
                await self._hand_over(connection, attempt, user, addressee)
            await release(connection, attempt)
            return remove

    async def _require(
        self, connection: Connection, attempt: Attempt, user: LockedUser, proved: _Proved
    ) -> None:
        """Check again what the proof relied on, now that the user's row is locked."""
        # The address may have moved to another account in the meantime.
        is_other = proved.credential.user_id != user.user_id
        session_id = proved.session_id
        if is_other or (session_id and await sessions.has_ended(connection, session_id)):
            raise Rejected(attempt.cause(Cause.TOKEN), credentials_invalid)
        current = await users.get_credential(connection, user.user_id)
        if session_id is None and current != proved.credential:
            raise _PasswordChanged

    async def _hand_over(
        self, connection: Connection, attempt: Attempt, user: LockedUser, addressee: Addressee
    ) -> None:
        """Remove what was set before, and send the owner a code to set a password."""
        owner = await self._reclaim.claim(connection, attempt.call, user, attempt.client)
        recipient = replace(addressee, display_name=owner.display_name, verified=True)
        purpose = Purpose.RESET_PASSWORD
        await self._requests.issue(connection, purpose, attempt.account, recipient, Delivery.SEND)
        event = AuditEvent(
            AuditType.PASSWORD_RESET_REQUEST,
            attempt.call,
            user.user_id,
            client=attempt.client,
            detail={"purpose": purpose.value},
        )
        await record_event(connection, self._clock.now(), event)
