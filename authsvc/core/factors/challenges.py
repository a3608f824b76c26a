"""Owns the decision whether a login needs a second factor, and the challenge for it."""

import hashlib
import os
import secrets
from collections.abc import Sequence

from authsvc.config import SecondFactorSettings
from authsvc.core.attempts import attempts
from authsvc.core.attempts.attempts import Attempt
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.relying_party import CHALLENGE_BYTES
from authsvc.core.factors.totp import Totp
from authsvc.core.lib.ids import uuid7
from authsvc.core.roles.permissions import Permissions
from authsvc.errors import email_not_verified
from authsvc.models.clock import Clock
from authsvc.models.factors import FactorKind, MfaChallenge, TotpEnrollment
from authsvc.models.ids import UserId
from authsvc.models.users import User
from authsvc.store import challenges, devices, factors, recovery_codes
from authsvc.store.challenges import Challenge
from authsvc.store.postgres.database import Connection

_TOKEN_BYTES = 32
_RECOVERY_CODE = "recovery_code"


class SecondFactors:
    """Decides whether one factor is enough, and creates a challenge if it is not."""

    def __init__(
        self,
        *,
        settings: SecondFactorSettings,
        permissions: Permissions,
        totp: Totp,
        passkeys: Passkeys,
        clock: Clock,
    ) -> None:
        self._lifetime = settings.challenge_lifetime
        self._permissions = permissions
        self._totp = totp
        self._passkeys = passkeys
        self._clock = clock

    async def are_asked_for(self, connection: Connection, attempt: Attempt, user: User) -> bool:
        """Return whether the user has to give a second factor, or to enrol one.

        A trusted device exempts nobody from enrolment.
        """
        if not user.has_second_factor:
            return self._permissions.require_second_factor(user.roles)
        if attempt.device is None:
            return True
        return not await devices.is_trusted(
            connection, user.user_id, attempt.device, self._clock.now()
        )

    async def challenge(
        self, connection: Connection, attempt: Attempt, user: User, methods: Sequence[str]
    ) -> MfaChallenge:
        """Create the challenge for a login whose first factor was proved by `methods`.

        The attempt does not count as a failure, nor does it reset earlier ones. The caller's
        transaction has locked the user's row.

        Raises:
            FailedPrecondition: EMAIL_NOT_VERIFIED: a factor would have to be enrolled.
        """
        await attempts.release(connection, attempt)
        enrollment: TotpEnrollment | None = None
        if user.has_second_factor:
            accepted = await _methods_of(connection, user.user_id)
        elif user.email_verify_time is None:
            # The address may be somebody else's, as in `lock_user_for_new_factor`.
            raise email_not_verified()
        else:
            enrollment = await self._totp.enroll(connection, user.user_id, user.email)
            accepted = (FactorKind.TOTP.value,)
        passkey = None
        if FactorKind.PASSKEY in accepted:
            passkey = os.urandom(CHALLENGE_BYTES)
        now = self._clock.now()
        token, expire_time = secrets.token_urlsafe(_TOKEN_BYTES), now + self._lifetime
        factor_id = enrollment.factor_id if enrollment is not None else None
        row = Challenge(uuid7(now), user.user_id, tuple(methods), factor_id, passkey)
        await challenges.create(connection, row, token_hash(token), now, expire_time)
        event = AuditEvent(
            AuditType.MFA_REQUIRED,
            attempt.call,
            user.user_id,
            client=attempt.client,
            detail={"methods": accepted, "enrollment": enrollment is not None},
        )
        await record_event(connection, now, event)
        options = ""
        if passkey is not None:
            options = await self._passkeys.options(connection, user.user_id, passkey)
        return MfaChallenge(token, accepted, expire_time, enrollment, options)


def token_hash(mfa_token: str) -> bytes:
    """Return the SHA-256 under which a challenge is stored, instead of its token (ASVS 6.5.2)."""
    return hashlib.sha256(mfa_token.encode()).digest()


async def _methods_of(connection: Connection, user_id: UserId) -> tuple[str, ...]:
    kinds = {factor.kind for factor in await factors.list_confirmed(connection, user_id)}
    accepted = [kind.value for kind in FactorKind if kind in kinds]
    if await recovery_codes.count(connection, user_id):
        accepted.append(_RECOVERY_CODE)
    return tuple(accepted)
