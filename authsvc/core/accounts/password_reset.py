"""Owns the reset of a password with a code that was sent to the user's address."""

from typing import NamedTuple

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.codes.redemption import CodeProofs
from authsvc.core.lib.emails import Email, parse_email
from authsvc.core.login.password import stored_hash
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.passwords.acceptance import PasswordAcceptance
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher
from authsvc.core.sessions.ending import SessionEnding
from authsvc.errors import FieldInvalid, code_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.revocations import RevocationCursor
from authsvc.models.sessions import RevokeReason
from authsvc.store import devices, revocations, users
from authsvc.store import password_reset as store
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential


class _MustDiffer(Exception):
    """The new password has to be compared with the current one first."""

    def __init__(self, credential: Credential) -> None:
        super().__init__()
        self.credential = credential


class _Replaced(NamedTuple):
    revoked: RevocationCursor | None


class PasswordReset:
    """Sets passwords for users who can't log in."""

    def __init__(
        self,
        *,
        database: Database,
        proofs: CodeProofs,
        attempts: Attempts,
        hasher: PasswordHasher,
        acceptance: PasswordAcceptance,
        sessions: SessionEnding,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._database = database
        self._proofs = proofs
        self._attempts = attempts
        self._hasher = hasher
        self._acceptance = acceptance
        self._sessions = sessions
        self._outbox = outbox
        self._clock = clock

    async def reset(
        self, call: Call, email: str, code: str, password: str, client: ClientContext
    ) -> RevocationCursor | None:
        """Set the password of the account with this address, end its sessions and notify its user.

        Return what names the end of the sessions, None if there were none.

        One that an operator decided has to be changed can't be set again.

        Nobody is logged in, and no device stays exempt from the second factor. The factors stay
        (ASVS 6.4.3), unless the address had never been verified. The reset works while the account
        is locked, and unlocks it unless the user has a second factor: somebody who reads the mail
        must not be able to guess codes forever. The client's device counts as known from then on,
        so strangers can't keep the user from logging in there with the new password.

        Raises:
            FieldInvalid: EMAIL_INVALID, PASSWORD_WEAK, or the password is malformed; the code stays
                valid.
            Unauthenticated: CODE_INVALID.
            TooManyAttempts: Too many proofs from the client's network failed before.
            Overloaded: Too many passwords are waiting to be hashed; the code stays valid.
            ProviderUnavailable: Whether the password was breached can't be found out; the code
                stays valid.
        """
        address = parse_email(email)
        async with self._attempts.evaluate(
            call, address.canonical, client, failure=code_invalid, guessable=False
        ) as attempt:
            await self._check(address, password)
            # Hashed before the transaction, so that no connection waits for it.
            replacement = await self._hasher.hash(password)
            other_than: Credential | None = None
            while True:
                try:
                    claimed = await self._claim(attempt, code, replacement, other_than)
                    break
                except _MustDiffer as found:
                    # Compared only after the code has been proved, and outside the transaction.
                    other_than = found.credential
                    await self._require_other(other_than, password)
            if claimed is None:
                raise Rejected(attempt.cause(Cause.CODE))
            await self._attempts.forgive(attempt)
            return claimed.revoked

    async def _check(self, address: Email, password: str) -> None:
        # Checked without the account's data, as the answer would reveal it.
        await self._acceptance.check(password, field="new_password", email=address.address)

    async def _require_other(self, current: Credential, password: str) -> None:
        if (await self._hasher.verify(stored_hash(current), password)).matches:
            raise FieldInvalid.weak_password(
                "new_password", ["Choose a password other than the current one."]
            )

    async def _claim(
        self, attempt: Attempt, code: str, replacement: PasswordHash, other_than: Credential | None
    ) -> "_Replaced | None":
        """Use up the code and replace the password; return None if the code is wrong.

        Raises:
            _MustDiffer: The password has to be changed, and is not the one in `other_than`.
        """
        async with self._database.transaction(attempt.account) as connection:
            proof = await self._proofs.claim(connection, attempt, Purpose.RESET_PASSWORD, code)
            if proof is None:
                return None
            if proof.user.password_change_required:
                current = await users.get_credential(connection, proof.user.user_id)
                if current is not None and current.phc is not None and current != other_than:
                    raise _MustDiffer(current)
            await self._replace(connection, attempt, proof.addressee, replacement)
            return _Replaced(revocations.noted(connection))

    async def _replace(
        self, connection: Connection, attempt: Attempt, user: Addressee, replacement: PasswordHash
    ) -> None:
        now, user_id, call = self._clock.now(), user.user_id, attempt.call
        await release(connection, attempt)
        await store.replace(connection, user_id, replacement.phc, replacement.pepper_id, now)
        await self._sessions.revoke_in(connection, call, user_id, RevokeReason.PASSWORD_CHANGED)
        await devices.forget_trust(connection, user_id)
        if attempt.device is not None:
            await devices.remember(connection, user_id, attempt.device, now)
        notice = Message(MessageKind.PASSWORD_CHANGED, user.email, user_id, values=user.values)
        await self._outbox.enqueue(connection, notice)
        event = AuditEvent(AuditType.PASSWORD_RESET, call, user_id, client=attempt.client)
        await record_event(connection, now, event)
