"""Owns the proofs of having set an account's password, which come along with a code."""

from dataclasses import dataclass, field
from typing import TypeAlias

from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.attempts.attempts import Attempt, Cause, Rejected
from authsvc.core.login.password import stored_hash
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.tokens.validation import TokenValidation
from authsvc.errors import PermissionDenied, Unauthenticated, credentials_invalid
from authsvc.models.ids import SessionId
from authsvc.models.users import LockedUser
from authsvc.store import sessions, users
from authsvc.store.postgres.database import Connection
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
class Proved:
    """What a proof relied on, which must still hold when the code is used."""

    credential: Credential
    session_id: SessionId | None = None


class PasswordReplaced(Exception):
    """The password hash that the proof relied on was replaced meanwhile."""


class OwnerProofs:
    """Checks proofs, with the same work whether or not there is an account."""

    def __init__(
        self,
        registration_tokens: RegistrationTokens,
        tokens: TokenValidation,
        hasher: PasswordHasher,
    ) -> None:
        self._registration_tokens = registration_tokens
        self._tokens = tokens
        self._hasher = hasher

    async def check(
        self, attempt: Attempt, credential: Credential | None, proof: OwnerProof
    ) -> Proved:
        """Return what the proof relies on; raise `Rejected` if it is wrong.

        Raises:
            Overloaded: Too many passwords are waiting to be hashed.
        """
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
        return Proved(credential, session_id)

    async def require(
        self, connection: Connection, attempt: Attempt, user: LockedUser, proved: Proved
    ) -> None:
        """Check again what a proof relied on, in the transaction that has locked the user's row.

        Raise `Rejected` if it no longer holds, and `PasswordReplaced` if it has to be checked with
        another hash, which may be of the same password.
        """
        session_id = proved.session_id
        # The address may have moved to another account in the meantime.
        is_other = proved.credential.user_id != user.user_id
        if is_other or (session_id and await sessions.has_ended(connection, session_id)):
            raise Rejected(attempt.cause(Cause.TOKEN), credentials_invalid)
        if session_id is not None:
            return
        if await users.get_credential(connection, user.user_id) != proved.credential:
            raise PasswordReplaced

    async def _session_of(self, token: str, credential: Credential | None) -> SessionId | None:
        """Return the session of an access token of this account."""
        try:
            claims = await self._tokens.bearer(token)
        except (Unauthenticated, PermissionDenied):
            return None
        is_own = credential is not None and claims.subject == credential.user_id
        return claims.session_id if is_own else None
