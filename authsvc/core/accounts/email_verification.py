"""Owns the verification that an e-mail address belongs to its account's user.

Whoever reads the code at an address for the first time owns the address, but may not have created
the account. So the code alone transfers the account, as a login by code does: what was set before
is removed, and the owner is sent a code to set a password. Only a proof that comes with the code,
of being the one who set the password, keeps what was set.
"""

from dataclasses import replace
from typing import NamedTuple

from authsvc.core.accounts.owner_proofs import (
    OwnerProof,
    OwnerProofs,
    Password,
    PasswordReplaced,
    Proved,
)
from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.codes.redemption import note_verified
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.lib.emails import parse_email
from authsvc.core.passwords.hashing import normalize_password
from authsvc.errors import code_invalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.messages import Delivery
from authsvc.models.revocations import RevocationCursor
from authsvc.models.users import LockedUser
from authsvc.store import revocations, users
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.users import Credential


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
        proofs: OwnerProofs,
        clock: Clock,
    ) -> None:
        self._database = database
        self._codes = codes
        self._requests = requests
        self._attempts = attempts
        self._reclaim = reclaim
        self._proofs = proofs
        self._clock = clock

    async def verify(
        self, call: Call, email: str, code: str, client: ClientContext, proof: OwnerProof | None
    ) -> RevocationCursor | None:
        """Verify the address of an account with the code that was sent to it.

        Return what names the removal of what was set before, None if nothing was removed: password,
        sessions, API keys, identities, devices and name. That happens at the first verification
        without a proof. A wrong proof fails before the code is looked at, so the code stays valid
        and its tries aren't used up.

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
                proved = await self._proofs.check(attempt, credential, proof) if proof else None
                try:
                    verified = await self._redeem(attempt, code, proved)
                except PasswordReplaced:
                    # By another password, or by a login that rehashed the same one.
                    credential = await self._reread(credential)
                    continue
                if verified is None:
                    raise Rejected(attempt.cause(Cause.CODE))
                return verified.revoked

    async def _reread(self, credential: Credential | None) -> Credential | None:
        if credential is None:
            return None
        async with self._database.connection() as connection:
            return await users.get_credential(connection, credential.user_id)

    async def _redeem(
        self, attempt: Attempt, code: str, proved: Proved | None
    ) -> "_Verified | None":
        """Use up the code; return what that revoked, or None if the code is wrong.

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
                await self._proofs.require(connection, attempt, user, proved)
            elif user.has_second_factor and user.email_verify_time is None:
                # As in `redemption`: whoever reads the mail but lacks the factor gets nothing.
                raise Rejected(attempt.cause(Cause.FACTOR))
            addressee = await note_verified(connection, attempt, user_id, self._clock)
            if addressee is None:
                return None
            if proved is None and not addressee.verified:
                await self._hand_over(connection, attempt, user, addressee)
            await release(connection, attempt)
            return _Verified(revocations.noted(connection))

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


class _Verified(NamedTuple):
    revoked: RevocationCursor | None
