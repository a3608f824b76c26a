"""Owns the second step of a login: verifying the second factor for a challenge."""

from uuid import UUID

from authsvc.config import SecondFactorSettings
from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.challenges import token_hash
from authsvc.core.factors.proofs import FactorProofs, PasskeyAssertion, SecondFactor
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.login.federated import METHODS as FEDERATED
from authsvc.errors import FieldInvalid
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.incidents import LoginMethod
from authsvc.models.tokens import Tokens
from authsvc.store import challenges, devices, users
from authsvc.store.challenges import Challenge
from authsvc.store.postgres.database import Connection, Database

# By the method of RFC 8176 that the first factor was proved with.
_LOGIN_METHODS = {
    "pwd": LoginMethod.PASSWORD,
    "otp": LoginMethod.CODE,
    "fed": LoginMethod.FEDERATED,
}
_NOBODY = UUID(int=0)
# Stands in for an unknown or unusable challenge: no factor satisfies it.
_NONE = Challenge(_NOBODY, UserId(_NOBODY), ())


class MfaVerification:
    """Completes logins that are waiting for a second factor."""

    def __init__(
        self,
        *,
        database: Database,
        settings: SecondFactorSettings,
        attempts: Attempts,
        completion: LoginCompletion,
        proofs: FactorProofs,
        freezes: LoginFreezes,
        clock: Clock,
    ) -> None:
        self._database = database
        self._max_attempts = settings.max_attempts
        self._trust_lifetime = settings.trusted_device_lifetime
        self._attempts = attempts
        self._completion = completion
        self._proofs = proofs
        self._freezes = freezes
        self._clock = clock

    async def verify(
        self,
        call: Call,
        mfa_token: str,
        factor: SecondFactor,
        client: ClientContext,
        *,
        trust_device: bool = False,
    ) -> Tokens:
        """Log in the user whose login is waiting under this token.

        `trust_device` lets this user log in without a second factor from the client's device.

        Raises:
            FieldInvalid: The device to be trusted has no id.
            Unauthenticated: CREDENTIALS_INVALID, also if the token is unknown, used, expired or has
                no attempts left.
            FailedPrecondition: EMAIL_NOT_VERIFIED: the factor was to be enrolled; LOGIN_FROZEN,
                for the method that the login began with.
            TooManyAttempts: Too many logins failed before; this one was not evaluated.
        """
        if trust_device and not client.device_id:
            raise FieldInvalid("client.device_id", "is required to trust the device")
        hashed = token_hash(mfa_token)
        async with self._database.connection() as connection:
            found = await challenges.find_account(
                connection, hashed, self._clock.now(), self._max_attempts
            )
        # No address looks like this: an unknown token is charged to nobody, with the same queries.
        account, methods = found or (f"mfa:{hashed.hex()}", ())
        begun_with = next(iter(methods), "pwd")
        await self._freezes.require_open(
            _LOGIN_METHODS.get(begun_with, LoginMethod.PASSWORD), client
        )
        async with self._attempts.evaluate(
            call,
            account,
            client,
            guessable=not isinstance(factor, PasskeyAssertion),
            vouched=methods == FEDERATED,
        ) as attempt:
            challenge = await self._claim(attempt, hashed, factor)
            async with self._database.transaction(attempt.account) as connection:
                tokens = await self._complete(connection, attempt, challenge, factor)
                if tokens is not None and trust_device:
                    await self._trust(connection, attempt, tokens.user_id)
            if tokens is None:
                raise Rejected(attempt.cause(Cause.FACTOR))
            return tokens

    async def _claim(self, attempt: Attempt, hashed: bytes, factor: SecondFactor) -> Challenge:
        """Count an attempt at the challenge, whatever its outcome, and return the challenge."""
        async with self._database.connection() as connection:
            challenge = await challenges.claim_attempt(
                connection, hashed, self._clock.now(), self._max_attempts
            )
            if challenge is None or attempt.credential is None:
                return _NONE
            # A passkey signs one challenge, which can be used only once (WebAuthn, 13.4.3).
            if isinstance(factor, PasskeyAssertion) and not await challenges.take_passkey(
                connection, challenge.challenge_id
            ):
                return _NONE
        # The address may have moved to another account in the meantime.
        return challenge if challenge.user_id == attempt.credential.user_id else _NONE

    async def _complete(
        self, connection: Connection, attempt: Attempt, challenge: Challenge, factor: SecondFactor
    ) -> Tokens | None:
        """Return None, to be committed, if the factor is wrong, as an alert may have been recorded.

        If the factor is right but the login fails otherwise, all is rolled back, so that the factor
        is not used up.
        """
        found = await users.lock_user(connection, challenge.user_id)
        locked = found if found is not None and found.active else None
        methods = await self._proofs.judge(connection, attempt, locked, challenge, factor)
        if methods is None:
            return None
        finished = await challenges.finish(connection, challenge.challenge_id)
        # Locks only rows that were already locked before the factor was verified.
        user_id = locked.user_id if locked else UserId(_NOBODY)
        user = await users.confirm(connection, user_id, self._clock.now())
        if user is None or not finished:
            raise Rejected(attempt.cause(Cause.FACTOR))
        every = (*challenge.methods, *methods)
        return await self._completion.log_in_multi_factor(connection, attempt, user, every)

    async def _trust(self, connection: Connection, attempt: Attempt, user_id: UserId) -> None:
        if attempt.device is None:
            return
        now = self._clock.now()
        await devices.trust(connection, user_id, attempt.device, now + self._trust_lifetime)
        event = AuditEvent(AuditType.DEVICE_TRUST, attempt.call, user_id, client=attempt.client)
        await record_event(connection, now, event)
