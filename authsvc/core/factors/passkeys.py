"""Owns passkeys (WebAuthn): the options for a user's passkeys, and the check of assertions."""

from dataclasses import dataclass

import structlog

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.relying_party import Assertion, RelyingParty, descriptor, parse_assertion
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import FactorId, UserId
from authsvc.store import passkeys as store
from authsvc.store import users
from authsvc.store.passkeys import Passkey
from authsvc.store.postgres.database import Connection

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PasskeyProof:
    """Proof that a user's passkey signed; `user_verified` if it was unlocked by PIN or biometrics.

    `methods` are RFC 8176 values. Whether the key is held in hardware is what the authenticator
    claims; a key that can be on several devices counts as held in software.
    """

    user_id: UserId
    factor_id: FactorId
    user_verified: bool
    methods: tuple[str, ...] = ("hwk", "user")


class Passkeys:
    """Verifies passkeys. `counter_alerts` counts assertions whose counter did not increase.

    Such an assertion is a sign that the key was copied (WebAuthn Level 3, section 6.1.1). A passkey
    that is bound to one device must not exist twice, so it is rejected. One that is eligible for
    backup is meant to, and the devices that hold it count separately or not at all: rejecting it
    would lock out its user, so it only raises the alert. What counts is what the authenticator said
    at registration, as whoever has a copy of the key can claim anything later.
    """

    def __init__(self, relying_party: RelyingParty, clock: Clock) -> None:
        self._relying_party = relying_party
        self._clock = clock
        self.counter_alerts = 0

    async def exist(self, connection: Connection, user_id: UserId) -> bool:
        """Return whether the user has a passkey."""
        return await store.exist(connection, user_id)

    async def options(self, connection: Connection, user_id: UserId, challenge: bytes) -> str:
        """Return PublicKeyCredentialRequestOptions for the user's passkeys, as JSON.

        They are for a second factor, so user presence is enough.
        """
        passkeys = await store.list_of_user(connection, user_id)
        allow = [descriptor(passkey.credential_id, passkey.transports) for passkey in passkeys]
        return self._relying_party.request_options(challenge, allow, require_verification=False)

    async def find_signer(
        self, connection: Connection, assertion: Assertion, challenge: bytes
    ) -> str | None:
        """Return the canonical address of the user whose passkey signed the challenge.

        The passkey has to have verified its user. Return None, after the same work, if none did.
        """
        passkey = await store.find(connection, assertion.raw_id)
        account = await store.find_account(connection, assertion.raw_id)
        public_key = passkey.public_key if passkey is not None else None
        signed = self._relying_party.check_assertion(
            assertion, challenge, public_key, require_verification=True
        )
        return account if signed is not None else None

    async def verify(
        self,
        connection: Connection,
        call: Call,
        client: ClientContext,
        assertion_json: str,
        challenge: bytes,
        user_id: UserId | None,
        *,
        require_verification: bool = False,
    ) -> PasskeyProof | None:
        """Return the proof of the passkey that signed, or None if the assertion is invalid.

        The passkey has to be that of `user_id` or, without one, of the user whom the assertion
        names. The caller has already used up the challenge. Runs in the caller's transaction, in
        which the user's row stays locked. It has to commit even if the result is None, as an alert
        may have been recorded.
        """
        assertion = parse_assertion(assertion_json)
        if assertion is None:
            return None
        passkey = await store.find(connection, assertion.raw_id)
        signed = self._relying_party.check_assertion(
            assertion,
            challenge,
            passkey.public_key if passkey is not None else None,
            require_verification=require_verification,
        )
        if passkey is None or signed is None or not _names_its_user(assertion, passkey, user_id):
            return None
        user = await users.lock_user(connection, passkey.user_id)
        if user is None or not user.active:
            return None
        now = self._clock.now()
        if not await store.advance(connection, passkey.factor_id, signed.sign_count, now):
            accepted = await store.reset(connection, passkey.factor_id, signed.sign_count, now)
            await self._alert(connection, call, client, passkey, accepted=accepted)
            if not accepted:
                return None
        synced = signed.backup_eligible or passkey.backup_eligible
        methods = ("swk" if synced else "hwk", "user")
        return PasskeyProof(passkey.user_id, passkey.factor_id, signed.user_verified, methods)

    async def _alert(
        self,
        connection: Connection,
        call: Call,
        client: ClientContext,
        passkey: Passkey,
        *,
        accepted: bool,
    ) -> None:
        self.counter_alerts += 1
        factor_id = str(passkey.factor_id)
        log.warning(
            "passkey_counter_alert",
            user_id=str(passkey.user_id),
            factor_id=factor_id,
            accepted=accepted,
        )
        event = AuditEvent(
            AuditType.FACTOR_COUNTER_ALERT,
            call,
            passkey.user_id,
            client=client,
            detail={"factor": factor_id, "accepted": accepted},
        )
        await record_event(connection, self._clock.now(), event)


def _names_its_user(assertion: Assertion, passkey: Passkey, user_id: UserId | None) -> bool:
    """Return whether the passkey is the required user's, and the user handle agrees.

    Without a `user_id` the handle is required.
    """
    handle = assertion.response.user_handle
    if user_id is None:
        return handle == passkey.user_id.bytes
    return passkey.user_id == user_id and (not handle or handle == user_id.bytes)
