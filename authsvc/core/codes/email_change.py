"""Owns the change of a user's e-mail address: proved before it is made, and told to the old one."""

from dataclasses import replace

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected, release
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import IssuedCode, OneTimeCodes, Purpose
from authsvc.core.codes.requests import CodeLimits
from authsvc.core.lib.emails import Email, parse_email
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import FieldInvalid, code_invalid, user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.messages import Delivery
from authsvc.models.tokens import Claims
from authsvc.models.users import User
from authsvc.store import addresses, one_time_codes, users
from authsvc.store.addresses import Addressee
from authsvc.store.postgres.database import Connection, Database

_FIELD = "new_email"
_PURPOSE = Purpose.CHANGE_EMAIL


class EmailChange:
    """Changes addresses."""

    def __init__(
        self,
        database: Database,
        codes: OneTimeCodes,
        limits: CodeLimits,
        attempts: Attempts,
        outbox: Outbox,
        recent_login: RecentLogin,
        clock: Clock,
    ) -> None:
        self._database = database
        self._codes = codes
        self._limits = limits
        self._attempts = attempts
        self._outbox = outbox
        self._recent_login = recent_login
        self._clock = clock

    async def request(
        self,
        call: Call,
        claims: Claims,
        new_email: str,
        delivery: Delivery,
        client: ClientContext,
    ) -> IssuedCode:
        """Make a code for the address that the token's user wants, and tell the present one of it.

        If an account has the address, the code will never work, and its owner is told instead.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            FieldInvalid: EMAIL_INVALID, or it is the user's address already.
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            TooManyAttempts: Too many codes were requested for either address or from the ip.
        """
        self._recent_login.require(claims)
        wanted = parse_email(new_email, _FIELD)
        own = await self._own(claims)
        if wanted.canonical == own.email_canonical:
            raise FieldInvalid(_FIELD, "is the account's address already")
        mailed = [wanted.canonical, own.email_canonical]
        await self._limits.charge(_PURPOSE, mailed, client, own.user_id)
        event = AuditEvent(
            AuditType.EMAIL_CHANGE_REQUEST, call, own.user_id, claims.session_id, client
        )
        async with self._database.transaction() as connection:
            owner = await addresses.find(connection, wanted.canonical)
            issued = await self._codes.issue(
                connection, _PURPOSE, wanted.canonical, own.user_id, usable=owner is None
            )
            await self._send(connection, own, owner, wanted, issued, delivery)
            await record_event(connection, self._clock.now(), event)
        return issued

    async def confirm(
        self, call: Call, claims: Claims, new_email: str, code: str, client: ClientContext
    ) -> User:
        """Make the address the token's user's, who knows the code that was sent there.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            FieldInvalid: EMAIL_INVALID.
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            Unauthenticated: CODE_INVALID; BEARER_INVALID: the session was ended meanwhile.
            AlreadyExists: EMAIL_TAKEN, meanwhile.
            TooManyAttempts: Too many attempts failed before; this one was not evaluated.
        """
        self._recent_login.require(claims)
        wanted = parse_email(new_email, _FIELD)
        own = await self._own(claims)
        async with self._attempts.evaluate(
            call, own.email_canonical, client, failure=code_invalid
        ) as attempt:
            user = await self._change(attempt, claims, own, wanted, code)
            if user is None:
                raise Rejected(attempt.cause(Cause.CODE))
            return user

    async def _own(self, claims: Claims) -> Addressee:
        async with self._database.connection() as connection:
            own = await addresses.of_user(connection, claims.subject)
        if own is None or not own.active:
            raise user_not_found()
        return own

    async def _send(
        self,
        connection: Connection,
        own: Addressee,
        owner: Addressee | None,
        wanted: Email,
        issued: IssuedCode,
        delivery: Delivery,
    ) -> None:
        outbox = self._outbox
        await outbox.enqueue(connection, _to(own, MessageKind.EMAIL_CHANGE_REQUESTED))
        if owner is not None and owner.active:
            # Of no user, as that one may be deleted at this moment.
            await outbox.enqueue(connection, Message(MessageKind.EMAIL_IN_USE, owner.email, None))
        elif owner is None and delivery is Delivery.SEND:
            kind, code = MessageKind.CHANGE_EMAIL, issued.code
            message = Message(
                kind, wanted.address, own.user_id, code, issued.expire_time, own.values
            )
            await outbox.enqueue(connection, message)
        else:
            await outbox.enqueue_decoy(connection, MessageKind.CHANGE_EMAIL)

    async def _change(
        self, attempt: Attempt, claims: Claims, own: Addressee, wanted: Email, code: str
    ) -> User | None:
        now = self._clock.now()
        async with self._database.transaction() as connection:
            user_id = await self._codes.claim(
                connection, attempt, _PURPOSE, code, email_canonical=wanted.canonical
            )
            if user_id != own.user_id:
                return None
            changed = await addresses.change(connection, own, wanted.address, wanted.canonical, now)
            if not changed:
                return None
            # Those that were sent to the old address prove nothing any more.
            await one_time_codes.delete_of_user(connection, user_id)
            await self._recent_login.require_live(connection, claims.session_id)
            await release(connection, attempt)
            # Of no account, so that it outlives this one: a thief might erase it next.
            notice = replace(_to(own, MessageKind.EMAIL_CHANGED), user_id=None)
            await self._outbox.enqueue(connection, notice)
            event = AuditEvent(
                AuditType.EMAIL_CHANGE, attempt.call, user_id, claims.session_id, attempt.client
            )
            await record_event(connection, now, event)
            return await users.get(connection, user_id)


def _to(own: Addressee, kind: MessageKind) -> Message:
    return Message(kind, own.email, own.user_id, values=own.values)
