"""Owns the judging of second factors: what each kind proves, and its being used up."""

import os
from dataclasses import dataclass, field
from typing import TypeAlias

from authsvc.core.attempts.attempts import Attempt
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.changes import FactorChange, FactorChanges
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.relying_party import CHALLENGE_BYTES
from authsvc.core.factors.totp import Totp
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import email_not_verified
from authsvc.models.clock import Clock
from authsvc.models.ids import FactorId
from authsvc.store import factors
from authsvc.store.challenges import Challenge
from authsvc.store.factors import FactorKind, Holder
from authsvc.store.postgres.database import Connection

# RFC 8176; a recovery code is a one-time password too.
_OTP = ("otp",)


@dataclass(frozen=True, slots=True)
class TotpCode:
    """What an authenticator app shows."""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecoveryCode:
    """One of the user's recovery codes."""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasskeyAssertion:
    """What a passkey signed: a PublicKeyCredential of WebAuthn as JSON."""

    json: str = field(repr=False)


SecondFactor: TypeAlias = TotpCode | RecoveryCode | PasskeyAssertion


class FactorProofs:
    """Judges second factors, within the caller's transaction."""

    def __init__(
        self,
        totp: Totp,
        recovery_codes: RecoveryCodes,
        passkeys: Passkeys,
        changes: FactorChanges,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._totp = totp
        self._recovery_codes = recovery_codes
        self._passkeys = passkeys
        self._changes = changes
        self._outbox = outbox
        self._clock = clock

    async def judge(
        self,
        connection: Connection,
        attempt: Attempt,
        holder: Holder | None,
        challenge: Challenge,
        factor: SecondFactor,
    ) -> tuple[str, ...] | None:
        """Use up the factor and return by which methods (RFC 8176) it proves; None: it is wrong.

        `holder` is the challenge's user, held by the transaction; None: there is none, and what is
        used up has to be rolled back. Where the factor is wrong, the transaction is to commit.

        Raises:
            FailedPrecondition: EMAIL_NOT_VERIFIED: the factor was to be enrolled.
        """
        match factor:
            case TotpCode(code):
                right = await self._judge_totp(connection, attempt, holder, challenge, code)
                return _OTP if right else None
            case RecoveryCode(code):
                right = await self._recovery_codes.claim(connection, challenge.user_id, code)
                if right and holder is not None:
                    await self._note_recovery_code(connection, attempt, holder)
                return _OTP if right else None
            case PasskeyAssertion(json):
                proof = await self._passkeys.verify(
                    connection,
                    attempt.call,
                    attempt.client,
                    json,
                    # One that nobody knows stands in for a challenge that isn't there.
                    challenge.passkey or os.urandom(CHALLENGE_BYTES),
                    challenge.user_id,
                )
                return proof.methods if proof is not None else None

    async def _judge_totp(
        self,
        connection: Connection,
        attempt: Attempt,
        holder: Holder | None,
        challenge: Challenge,
        code: str,
    ) -> bool:
        # Who has a factor by now has to give it: an enrolment begun before is no way round.
        if holder is None or holder.has_second_factor or challenge.factor_id is None:
            return await self._totp.verify(connection, challenge.user_id, code)
        return await self._enroll(connection, attempt, holder, challenge.factor_id, code)

    async def _enroll(
        self,
        connection: Connection,
        attempt: Attempt,
        holder: Holder,
        factor_id: FactorId,
        code: str,
    ) -> bool:
        if not holder.email_verified:
            raise email_not_verified()
        found = await factors.find_unconfirmed(connection, factor_id, holder.user_id)
        if found is None:
            return False
        seed, _ = found
        if not await self._totp.confirm(connection, holder.user_id, seed, code):
            return False
        change = FactorChange(
            attempt.call, holder.user_id, holder.email, factor_id, FactorKind.TOTP, attempt.client
        )
        await self._changes.added(connection, change)
        return True

    async def _note_recovery_code(
        self, connection: Connection, attempt: Attempt, holder: Holder
    ) -> None:
        event = AuditEvent(
            AuditType.RECOVERY_CODE_USE, attempt.call, holder.user_id, client=attempt.client
        )
        await record_event(connection, self._clock.now(), event)
        message = Message(MessageKind.RECOVERY_CODE_USED, holder.email, holder.user_id)
        await self._outbox.enqueue(connection, message)
