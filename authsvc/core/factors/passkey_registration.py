"""Owns the registration of passkeys: started by a logged-in user, and completed once."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.factors.changes import FactorChange, FactorChanges, lock_user_for_new_factor
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.relying_party import CHALLENGE_BYTES, Created, RelyingParty, descriptor
from authsvc.core.factors.signals import PasskeySignalling
from authsvc.core.lib.ids import uuid7
from authsvc.errors import credentials_invalid, state_invalid
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.factors import Factor, FactorKind, PasskeySignals
from authsvc.models.ids import FactorId
from authsvc.models.tokens import Claims
from authsvc.models.users import LockedUser
from authsvc.store import passkeys as store
from authsvc.store.passkeys import NewPasskey, Passkey, RegistrationChallenge
from authsvc.store.postgres.database import Connection, Database


@dataclass(frozen=True, slots=True)
class CreationRequest:
    """A request to create a passkey; `options` is PublicKeyCredentialCreationOptions as JSON."""

    challenge_id: UUID
    options: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RegisteredPasskey:
    """A newly registered passkey, and new recovery codes if the user had none."""

    factor: Factor
    recovery_codes: list[str] = field(repr=False)
    signals: PasskeySignals


class PasskeyRegistrationStart:
    """Starts the registration of passkeys."""

    def __init__(
        self,
        *,
        database: Database,
        relying_party: RelyingParty,
        recent_login: RecentLogin,
        max_factors: int,
        clock: Clock,
    ) -> None:
        self._database = database
        self._relying_party = relying_party
        self._recent_login = recent_login
        self._max_factors = max_factors
        self._clock = clock

    async def begin(self, claims: Claims, *, conditional: bool = False) -> CreationRequest:
        """Return the request for the user's device; it replaces an earlier one.

        If `conditional`, the browser may create the passkey without a gesture of the user.

        Raises:
            Unauthenticated: BEARER_INVALID: the user is disabled or deleted.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, EMAIL_NOT_VERIFIED, LIMIT_REACHED.
        """
        self._recent_login.require(claims)
        now = self._clock.now()
        expire_time = now + self._relying_party.challenge_lifetime
        challenge_id, challenge = uuid4(), secrets.token_bytes(CHALLENGE_BYTES)
        stored = RegistrationChallenge(challenge, conditional)
        async with self._database.transaction(claims.subject) as connection:
            user = await lock_user_for_new_factor(
                connection, claims, self._recent_login, self._max_factors
            )
            passkeys = await store.list_of_user(connection, user.user_id)
            await store.replace_registration(
                connection, challenge_id, user.user_id, stored, now, expire_time
            )
        known = [descriptor(passkey.credential_id, passkey.transports) for passkey in passkeys]
        options = self._relying_party.creation_options(challenge, user, known)
        return CreationRequest(challenge_id, options)


class PasskeyRegistration:
    """Completes the registration of passkeys."""

    def __init__(
        self,
        *,
        database: Database,
        relying_party: RelyingParty,
        recent_login: RecentLogin,
        changes: FactorChanges,
        recovery_codes: RecoveryCodes,
        signals: PasskeySignalling,
        max_factors: int,
        clock: Clock,
    ) -> None:
        self._database = database
        self._relying_party = relying_party
        self._recent_login = recent_login
        self._recovery_codes = recovery_codes
        self._changes = changes
        self._signals = signals
        self._max_factors = max_factors
        self._clock = clock

    async def finish(
        self, call: Call, claims: Claims, challenge_id: UUID, credential_json: str, name: str
    ) -> RegisteredPasskey:
        """Use up the challenge, and store the passkey that was created for it.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: the response is invalid, or some user has already
                registered the passkey. BEARER_INVALID: the user is disabled or deleted.
            FailedPrecondition: REAUTHENTICATION_REQUIRED, STATE_INVALID, EMAIL_NOT_VERIFIED,
                LIMIT_REACHED.
        """
        self._recent_login.require(claims)
        now = self._clock.now()
        async with self._database.connection() as connection:
            challenge = await store.claim_registration(
                connection, challenge_id, claims.subject, now
            )
        if challenge is None:
            raise state_invalid()
        created = self._relying_party.check_attestation(
            credential_json, challenge.challenge, require_presence=not challenge.conditional
        )
        if created is None:
            raise credentials_invalid()
        async with self._database.transaction(claims.subject) as connection:
            user = await lock_user_for_new_factor(
                connection, claims, self._recent_login, self._max_factors
            )
            return await self._store(connection, call, user, created, name, now)

    async def _store(
        self,
        connection: Connection,
        call: Call,
        user: LockedUser,
        created: Created,
        name: str,
        now: datetime,
    ) -> RegisteredPasskey:
        user_id = user.user_id
        passkey = Passkey(
            FactorId(uuid7(now)),
            user_id,
            created.credential_id,
            created.public_key,
            created.transports,
            created.backup_eligible,
        )
        if not await store.insert(connection, NewPasskey(passkey, name, created.sign_count, now)):
            raise credentials_invalid()
        factor = Factor(passkey.factor_id, FactorKind.PASSKEY, name, now, None)
        change = FactorChange(call, user_id, user.email, factor.factor_id, factor.kind)
        await self._changes.added(connection, change)
        codes = await self._recovery_codes.ensure(connection, user_id)
        own = await store.list_of_user(connection, user_id)
        signals = self._signals.passkeys(user, [one.credential_id for one in own])
        return RegisteredPasskey(factor, codes, signals)
