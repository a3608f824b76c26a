"""Owns requests for one-time codes: their limits, the codes and the messages.

For an address without an account, the limits, the statements and the answer are the same (ASVS
6.3.8), but the code will never work and the message goes to nobody.
"""

from collections.abc import Sequence
from dataclasses import replace

from authsvc.config import BruteForceSettings, CodeSettings
from authsvc.core.attempts.brute_force import keyed_charge
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import IssuedCode, OneTimeCodes, Purpose
from authsvc.core.lib.emails import parse_email
from authsvc.core.lib.sealing import Keyring
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.limits.networks import client_network
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import NotFound, TooManyAttempts
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.limits import Policy
from authsvc.models.messages import Delivery
from authsvc.store import emails
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database

_ADDRESS = "authsvc.codes.address"
_RESEND = "authsvc.codes.resend"
_IP = "authsvc.codes.ip"
_REMEMBERED = 10_000

MESSAGES = {
    Purpose.VERIFY_EMAIL: MessageKind.VERIFY_EMAIL,
    Purpose.LOGIN: MessageKind.LOGIN_CODE,
    Purpose.RESET_PASSWORD: MessageKind.RESET_PASSWORD,
    Purpose.CHANGE_EMAIL: MessageKind.CHANGE_EMAIL,
}
EVENTS = {
    Purpose.VERIFY_EMAIL: AuditType.CODE_REQUEST,
    Purpose.LOGIN: AuditType.CODE_REQUEST,
    Purpose.RESET_PASSWORD: AuditType.PASSWORD_RESET_REQUEST,
    Purpose.CHANGE_EMAIL: AuditType.EMAIL_CHANGE_REQUEST,
}


class CodeLimits:
    """Limits how often codes are requested, for any purpose, across all replicas.

    As in `brute_force`, the table of limits contains no addresses.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: CodeSettings,
        networks: BruteForceSettings,
        keyring: Keyring,
    ) -> None:
        self._networks = networks
        self._interval = settings.resend_interval
        self._limiter = RateLimiter(
            database=database, policies=_policies(settings), rejected_cache_size=_REMEMBERED
        )
        self._key = keyring.derive("code-requests")[0]
        self.decisions = self._limiter.decisions

    def replace_settings(self, settings: CodeSettings, networks: BruteForceSettings) -> None:
        """Use these limits from now on."""
        self._networks = networks
        self._interval = settings.resend_interval
        self._limiter.replace_policies(_policies(settings))

    async def charge(
        self,
        purpose: Purpose,
        recipients: Sequence[str],
        client: ClientContext,
        user_id: UserId | None = None,
    ) -> None:
        """Charge a request to the canonical addresses that get mail for it and to the client's IP.

        The first address gets the code. The next code for it with the same purpose, and the same
        `user_id` if a user is logged in, has to wait for the resend interval.

        Raises:
            TooManyAttempts: A limit is reached; nothing was charged.
        """
        # Requests for other codes must not keep anybody from a reset, the way in when locked out.
        apart = purpose.value if purpose is Purpose.RESET_PASSWORD else ""
        charges = [keyed_charge(self._key, _ADDRESS, address, apart) for address in recipients]
        if self._interval:
            who = (purpose.value, recipients[0], str(user_id or ""))
            charges.append(keyed_charge(self._key, _RESEND, *who))
        network = client_network(client.ip, self._networks)
        if network is not None:
            charges.append(keyed_charge(self._key, _IP, network))
        result = await self._limiter.check(charges)
        if not result.allowed:
            waits = [verdict.retry_after or 0.0 for verdict in result.verdicts]
            is_own = any(
                verdict.policy == _IP and not verdict.allowed for verdict in result.verdicts
            )
            raise TooManyAttempts(max(waits), "code", client.ip if is_own else None)


class CodeRequests:
    """Issues codes on request, and enqueues their messages."""

    def __init__(
        self,
        *,
        database: Database,
        codes: OneTimeCodes,
        outbox: Outbox,
        limits: CodeLimits,
        clock: Clock,
    ) -> None:
        self._database = database
        self._codes = codes
        self._outbox = outbox
        self._limits = limits
        self._clock = clock

    async def request(
        self, call: Call, purpose: Purpose, email: str, delivery: Delivery, client: ClientContext
    ) -> IssuedCode:
        """Issue a code for the active account with this address, or a decoy if there is none.

        A code to verify an address that is already verified is a decoy too.

        Raises:
            FieldInvalid: EMAIL_INVALID.
            TooManyAttempts: Too many codes were requested for the address or from the client's IP.
        """
        address = parse_email(email).canonical
        await self._limits.charge(purpose, [address], client)
        event = AuditEvent(EVENTS[purpose], call, client=client, detail={"purpose": purpose.value})
        try:
            return await self._issue(event, purpose, address, delivery)
        except NotFound:
            # The account was deleted in between: now nobody has the address.
            return await self._issue(event, purpose, address, delivery)

    async def issue(
        self,
        connection: Connection,
        purpose: Purpose,
        address: str,
        addressee: Addressee | None,
        delivery: Delivery,
    ) -> IssuedCode:
        """Issue a code for this canonical address, and enqueue the message to the stored address.

        Runs in the caller's transaction.
        """
        user_id = addressee.user_id if addressee is not None else None
        usable = _may_have(purpose, addressee)
        issued = await self._codes.issue(connection, purpose, address, user_id, usable=usable)
        if delivery is Delivery.RETURN:
            return issued
        if addressee is not None and usable:
            message = Message(
                MESSAGES[purpose],
                addressee.email,
                addressee.user_id,
                issued.code,
                issued.expire_time,
                addressee.values,
            )
            await self._outbox.enqueue(connection, message)
        else:
            await self._outbox.enqueue_decoy(connection, MESSAGES[purpose])
        return issued

    async def _issue(
        self, event: AuditEvent, purpose: Purpose, address: str, delivery: Delivery
    ) -> IssuedCode:
        async with self._database.transaction(address) as connection:
            found = await emails.find(connection, address)
            issued = await self.issue(connection, purpose, address, found, delivery)
            user_id = found.user_id if found is not None else None
            await record_event(connection, self._clock.now(), replace(event, user_id=user_id))
        return issued


def _may_have(purpose: Purpose, addressee: Addressee | None) -> bool:
    if addressee is None or not addressee.active:
        return False
    return purpose is not Purpose.VERIFY_EMAIL or not addressee.verified


def _policies(settings: CodeSettings) -> dict[str, Policy]:
    policies = policies_from(
        {_ADDRESS: settings.requests_per_address, _IP: settings.requests_per_ip}
    )
    if settings.resend_interval:
        policies[_RESEND] = Policy(_RESEND, 1, settings.resend_interval)
    return policies
