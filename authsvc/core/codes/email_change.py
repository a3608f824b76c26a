"""Owns changes of a user's e-mail address: the new one is verified, the old one notified."""

from dataclasses import replace

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import IssuedCode, OneTimeCodes, Purpose
from authsvc.core.codes.requests import CodeLimits
from authsvc.core.lib.emails import Email, parse_email, parse_new_email
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import FieldInvalid, code_invalid, user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.messages import Delivery
from authsvc.models.tokens import Claims
from authsvc.models.users import User
from authsvc.store import emails, one_time_codes, users
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database

_FIELD = "new_email"
_PURPOSE = Purpose.CHANGE_EMAIL


class EmailChange:
    """Changes e-mail addresses."""

    def __init__(
        self,
        *,
        database: Database,
        codes: OneTimeCodes,
        limits: CodeLimits,
        attempts: Attempts,
        outbox: Outbox,
        recent_login: RecentLogin,
        clock: Clock,
        directory_domains: bool = False,
    ) -> None:
        self._database = database
        self._codes = codes
        self._limits = limits
        self._attempts = attempts
        self._outbox = outbox
        self._recent_login = recent_login
        self._clock = clock
        self._directory_domains = directory_domains

    async def request(
        self,
        call: Call,
        claims: Claims,
        new_email: str,
        delivery: Delivery,
        client: ClientContext,
    ) -> IssuedCode:
        """Issue a code for the new address of the token's user, and notify the present address.

        If an account already has the new address, the code will never work, and that account's user
        is notified instead.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            FieldInvalid: EMAIL_INVALID, or it is already the user's address.
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            TooManyAttempts: Too many codes were requested for either address or from the client's
                IP.
        """
        self._recent_login.require(claims)
        new = parse_new_email(new_email, _FIELD, directory_domains=self._directory_domains)
        own = await self._own(claims)
        if new.canonical == own.email_canonical:
            raise FieldInvalid(_FIELD, "is already the account's address")
        recipients = [new.canonical, own.email_canonical]
        await self._limits.charge(_PURPOSE, recipients, client, own.user_id)
        event = AuditEvent(
            AuditType.EMAIL_CHANGE_REQUEST, call, own.user_id, claims.session_id, client
        )
        async with self._database.transaction(own.user_id) as connection:
            owner = await emails.find(connection, new.canonical)
            issued = await self._codes.issue(
                connection, _PURPOSE, new.canonical, own.user_id, usable=owner is None
            )
            await self._send(connection, own, owner, new, issued, delivery)
            await record_event(connection, self._clock.now(), event)
        return issued

    async def confirm(
        self, call: Call, claims: Claims, new_email: str, code: str, client: ClientContext
    ) -> User:
        """Change the address of the token's user, who has the code that was sent to the new one.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            FieldInvalid: EMAIL_INVALID.
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            Unauthenticated: CODE_INVALID; BEARER_INVALID: the session was ended meanwhile.
            AlreadyExists: EMAIL_TAKEN: another account took the address meanwhile.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        self._recent_login.require(claims)
        new = parse_email(new_email, _FIELD)
        own = await self._own(claims)
        async with self._attempts.evaluate(
            call, own.email_canonical, client, failure=code_invalid
        ) as attempt:
            user = await self._change(attempt, claims, own, new, code)
            if user is None:
                raise Rejected(attempt.cause(Cause.CODE))
            return user

    async def _own(self, claims: Claims) -> Addressee:
        async with self._database.connection() as connection:
            own = await emails.of_user(connection, claims.subject)
        if own is None or not own.active:
            raise user_not_found()
        return own

    async def _send(
        self,
        connection: Connection,
        own: Addressee,
        owner: Addressee | None,
        new: Email,
        issued: IssuedCode,
        delivery: Delivery,
    ) -> None:
        outbox = self._outbox
        await outbox.enqueue(connection, _to(own, MessageKind.EMAIL_CHANGE_REQUESTED))
        if owner is not None and owner.active:
            # Without a user id, as that user may be deleted at this moment.
            await outbox.enqueue(connection, Message(MessageKind.EMAIL_IN_USE, owner.email, None))
        elif owner is None and delivery is Delivery.SEND:
            kind, code = MessageKind.CHANGE_EMAIL, issued.code
            message = Message(kind, new.address, own.user_id, code, issued.expire_time, own.values)
            await outbox.enqueue(connection, message)
        else:
            await outbox.enqueue_decoy(connection, MessageKind.CHANGE_EMAIL)

    async def _change(
        self, attempt: Attempt, claims: Claims, own: Addressee, new: Email, code: str
    ) -> User | None:
        now = self._clock.now()
        async with self._database.transaction(own.user_id) as connection:
            user_id = await self._codes.claim(
                connection, attempt, _PURPOSE, code, email_canonical=new.canonical
            )
            if user_id != own.user_id:
                return None
            changed = await emails.change(connection, own, new.address, new.canonical, now)
            if not changed:
                return None
            # Codes sent to the old address prove nothing any more.
            await one_time_codes.delete_of_user(connection, user_id)
            await self._recent_login.require_live(connection, claims.session_id)
            await release(connection, attempt)
            # Without a user id, so that it outlives the account, which a thief might erase next.
            notice = replace(_to(own, MessageKind.EMAIL_CHANGED), user_id=None)
            await self._outbox.enqueue(connection, notice)
            event = AuditEvent(
                AuditType.EMAIL_CHANGE, attempt.call, user_id, claims.session_id, attempt.client
            )
            await record_event(connection, now, event)
            return await users.get(connection, user_id)


def _to(own: Addressee, kind: MessageKind) -> Message:
    return Message(kind, own.email, own.user_id, values=own.values)
