"""Owns passkeys (WebAuthn): what a user's passkeys are asked, and whether an answer is theirs."""

from dataclasses import dataclass

import structlog

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.relying_party import Assertion, RelyingParty, descriptor, parse_assertion
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import FactorId, UserId
from authsvc.store import factors
from authsvc.store import passkeys as store
from authsvc.store.passkeys import Passkey
from authsvc.store.postgres.database import Connection

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PasskeyProof:
    """That a user's passkey signed; `user_verified`: it was unlocked by PIN or biometrics.

    `methods` are RFC 8176 values. Whether the key is held in hardware is as the authenticator
    tells: one that can be on several devices is taken for software.
    """

    user_id: UserId
    factor_id: FactorId
    user_verified: bool
    methods: tuple[str, ...] = ("hwk", "user")


class Passkeys:
    """The passkeys of all users. `counter_alerts` counts assertions whose counter didn't grow."""

    def __init__(self, relying_party: RelyingParty, clock: Clock) -> None:
        self._relying_party = relying_party
        self._clock = clock
        self.counter_alerts = 0

    async def exist(self, connection: Connection, user_id: UserId) -> bool:
        """Return whether the user has a passkey."""
        return await store.exist(connection, user_id)

    async def options(self, connection: Connection, user_id: UserId, challenge: bytes) -> str:
        """Return PublicKeyCredentialRequestOptions as JSON: what the user's passkeys are to sign.

        It is for a second factor, so that the user's presence is enough.
        """
        passkeys = await store.list_of_user(connection, user_id)
        allow = [descriptor(passkey.credential_id, passkey.transports) for passkey in passkeys]
        return self._relying_party.request_options(challenge, allow, require_verification=False)

    async def find_signer(
        self, connection: Connection, assertion: Assertion, challenge: bytes
    ) -> str | None:
        """Return the canonical address of whose passkey signed the challenge and verified its user.

        None, after the same work: nobody's did.
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
        """Return whose passkey signed the challenge; None: the assertion is not valid.

        It has to be the passkey of `user_id`; None: of whoever the assertion itself names. The
        caller used up the challenge before. Within the caller's transaction, which holds the user's
        row from then on. It is to be committed also if the answer is None: a counter that did not
        grow has been recorded (WebAuthn Level 3, section 6.1.1).
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
        if await factors.lock_holder(connection, passkey.user_id) is None:
            return None
        now = self._clock.now()
        if not await store.advance(connection, passkey.factor_id, signed.sign_count, now):
            await self._alert(connection, call, client, passkey)
            return None
        methods = ("swk" if signed.synced else "hwk", "user")
        return PasskeyProof(passkey.user_id, passkey.factor_id, signed.user_verified, methods)

    async def _alert(
        self, connection: Connection, call: Call, client: ClientContext, passkey: Passkey
    ) -> None:
        self.counter_alerts += 1
        factor_id = str(passkey.factor_id)
        log.warning("passkey_counter_alert", user_id=str(passkey.user_id), factor_id=factor_id)
        event = AuditEvent(
            AuditType.FACTOR_COUNTER_ALERT,
            call,
            passkey.user_id,
            client=client,
            detail={"factor": factor_id},
        )
        await record_event(connection, self._clock.now(), event)


def _names_its_user(assertion: Assertion, passkey: Passkey, user_id: UserId | None) -> bool:
    """Return whether an assertion is by whom it has to be, and says so if it has to say it."""
    handle = assertion.response.user_handle
    if user_id is None:
        return handle == passkey.user_id.bytes
    return passkey.user_id == user_id and (not handle or handle == user_id.bytes)
