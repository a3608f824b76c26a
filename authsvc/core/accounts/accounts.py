"""Owns the creation, reading, disabling and enabling of accounts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.audit.request_receipts import CreateRequest, RequestReceipts
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.lib.emails import Email, parse_email, parse_new_email
from authsvc.core.lib.ids import uuid7
from authsvc.core.passwords.acceptance import PasswordAcceptance
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher
from authsvc.core.revocations.user_tokens import revoke_tokens
from authsvc.core.roles.permissions import DEFAULT_ROLES, Permissions
from authsvc.core.sessions.ending import SessionEnding
from authsvc.errors import (
    bearer_invalid,
    email_not_found,
    email_taken,
    user_not_found,
)
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.messages import Delivery
from authsvc.models.revocations import RevocationCursor
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Claims
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import devices, revocations, sessions, users
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection, Database

_EVENTS = {
    UserOrigin.REGISTER: AuditType.REGISTER,
    UserOrigin.OPERATOR: AuditType.USER_CREATE,
}


@dataclass(frozen=True, slots=True)
class Registration:
    """The data of a new account; `client` is the end user's client.

    `delivery` is how the code to verify the address is delivered; None issues no code. `verified`
    means that the address is known to be the user's without one.
    """

    email: str
    password: str = field(repr=False)
    display_name: str = ""
    client: ClientContext = field(default_factory=ClientContext)
    delivery: Delivery | None = Delivery.SEND
    verified: bool = False


@dataclass(frozen=True, slots=True)
class NewUser:
    """The data of an account that an operator creates; `password` is "" if it has none."""

    email: str
    password: str = field(default="", repr=False)
    display_name: str = ""
    roles: Sequence[str] = DEFAULT_ROLES
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """A new account; `code` verifies its address, and is "" if none was issued.

    `token` shows, along with the code, that its holder set the password.
    """

    user_id: UserId
    code: str = field(repr=False)
    token: str = field(repr=False)


class Accounts:
    """Creates, reads, renames, disables and enables accounts."""

    def __init__(  # noqa: PLR0913 - all but the last are parts
        self,
        *,
        database: Database,
        hasher: PasswordHasher,
        acceptance: PasswordAcceptance,
        session_ending: SessionEnding,
        brute_force: BruteForce,
        codes: CodeRequests,
        tokens: RegistrationTokens,
        permissions: Permissions,
        receipts: RequestReceipts,
        clock: Clock,
        directory_domains: bool = False,
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._acceptance = acceptance
        self._sessions = session_ending
        self._brute_force = brute_force
        self._codes = codes
        self._tokens = tokens
        self._permissions = permissions
        self._receipts = receipts
        self._clock = clock
        self._directory_domains = directory_domains

    async def register(self, call: Call, registration: Registration) -> Registered:
        """Create an account and a code to verify its address; the user is not logged in.

        Raises:
            TooManyAttempts: Too many registrations from the client's IP or for the address.
            FieldInvalid: EMAIL_INVALID, PASSWORD_WEAK, or the password is malformed.
            AlreadyExists: EMAIL_TAKEN.
            Overloaded: Too many passwords are waiting to be hashed.
            ProviderUnavailable: Whether the password was breached can't be found out.
        """
        await self._brute_force.charge_registration(registration.client)
        return await self._create(call, UserOrigin.REGISTER, registration, DEFAULT_ROLES)

    async def check_roles(self, roles: Sequence[str]) -> None:
        """Check that roles are defined by now; raises FieldInvalid, which names those that are."""
        await self._permissions.refresh()
        self._permissions.check_defined(roles)

    async def create_user(
        self, call: Call, user: NewUser, request: CreateRequest | None = None
    ) -> UserId:
        """Create an account for an operator; the same `request` again returns the same account.

        Without a password, the user logs in by other means, or sets one with a reset code.

        Raises:
            FieldInvalid: EMAIL_INVALID, PASSWORD_WEAK, a role is not defined, the password is
                malformed; REQUEST_ID_REUSED.
            AlreadyExists: EMAIL_TAKEN.
            Overloaded: Too many passwords are waiting to be hashed.
        """
        await self.check_roles(user.roles)
        made = await self._receipts.find(request)
        if made is not None:
            return UserId(UUID(made))
        registration = Registration(
            user.email, user.password, user.display_name, delivery=None, verified=user.verified
        )
        roles = tuple(dict.fromkeys(user.roles))
        created = await self._create(call, UserOrigin.OPERATOR, registration, roles, request)
        return created.user_id

    async def get(self, user_id: UserId) -> User:
        """Return an active account.

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
        """
        async with self._database.connection() as connection:
            user = await users.get(connection, user_id)
        if user is None or not user.active:
            raise user_not_found()
        return user

    async def rename(self, call: Call, claims: Claims, display_name: str) -> User:
        """Set the display name of the token's user and return the account.

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            Unauthenticated: BEARER_INVALID: the session was ended meanwhile.
        """
        now = self._clock.now()
        event = AuditEvent(AuditType.ACCOUNT_UPDATE, call, claims.subject, claims.session_id)
        async with self._database.transaction(claims.subject) as connection:
            user = await users.set_display_name(connection, claims.subject, display_name, now)
            if user is None:
                raise user_not_found()
            # The name may be that of whoever registered another's address (`AccountReclaim`).
            if await sessions.has_ended(connection, claims.session_id):
                raise bearer_invalid()
            await record_event(connection, now, event)
        return user

    async def disable(self, call: Call, account: UserId | str) -> RevocationCursor:
        """Disable an account, given by id or e-mail address, and end all of its sessions.

        Return what names that.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: EMAIL_INVALID.
        """
        key = account_key(account)
        async with self._database.transaction(key) as connection:
            user_id = await self._set_status(connection, call, key, UserStatus.DISABLED)
            await self._sessions.revoke_in(connection, call, user_id, RevokeReason.USER_DISABLED)
            # Also ends logins that wait for a second factor.
            await devices.forget_trust(connection, user_id)
            await revoke_tokens(connection, user_id, self._clock.now())
            return await revocations.cursor_of_now(connection)

    async def enable(self, call: Call, account: UserId | str) -> UserId:
        """Enable an account, given by id or e-mail address, and reset its failed logins.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: EMAIL_INVALID.
        """
        key = account_key(account)
        async with self._database.transaction(key) as connection:
            return await self._set_status(connection, call, key, UserStatus.ACTIVE)

    async def _create(
        self,
        call: Call,
        origin: UserOrigin,
        registration: Registration,
        roles: Sequence[str],
        request: CreateRequest | None = None,
    ) -> Registered:
        email = parse_new_email(registration.email, directory_domains=self._directory_domains)
        password = None
        if registration.password or origin is UserOrigin.REGISTER:
            password = await self._hash(registration, email)
        if registration.delivery is not None:
            # Charged only now, as tries with passwords that are too weak send no mail.
            await self._brute_force.charge_registered_address(email.canonical)
        now = self._clock.now()
        user = User(
            user_id=UserId(uuid7(now)),
            email=email.address,
            display_name=registration.display_name,
            roles=tuple(roles),
            status=UserStatus.ACTIVE,
            create_time=now,
            email_verify_time=now if registration.verified else None,
        )
        detail = {"verified": True} if registration.verified else {}
        event = AuditEvent(
            _EVENTS[origin], call, user.user_id, client=registration.client, detail=detail
        )
        async with self._database.transaction(email.canonical) as connection:
            made = await self._receipts.claim(connection, request, str(user.user_id))
            if made is not None:
                return Registered(UserId(UUID(made)), "", "")
            inserted = await users.insert(
                connection,
                user,
                email_canonical=email.canonical,
                origin=origin,
                phc=password.phc if password else None,
                pepper_id=password.pepper_id if password else None,
            )
            if not inserted:
                raise email_taken()
            await record_event(connection, now, event)
            code = await self._verification_code(
                connection, user, email.canonical, registration.delivery
            )
        token = self._tokens.issue(user.user_id, password.phc) if password else ""
        return Registered(user.user_id, code, token)

    async def _hash(self, registration: Registration, email: Email) -> PasswordHash:
        """Check a new password and hash it, before any connection would wait for it."""
        await self._acceptance.check(
            registration.password, email=email.address, display_name=registration.display_name
        )
        return await self._hasher.hash(registration.password)

    async def _verification_code(
        self, connection: Connection, user: User, email_canonical: str, delivery: Delivery | None
    ) -> str:
        if delivery is None:
            return ""
        addressee = Addressee(
            user_id=user.user_id,
            email=user.email,
            email_canonical=email_canonical,
            display_name=user.display_name,
            active=True,
            verified=False,
        )
        purpose = Purpose.VERIFY_EMAIL
        issued = await self._codes.issue(connection, purpose, email_canonical, addressee, delivery)
        return issued.code

    async def _set_status(
        self, connection: Connection, call: Call, key: UserId | str, status: UserStatus
    ) -> UserId:
        now = self._clock.now()
        user_id = await users.set_status(connection, key, status, now)
        if user_id is None:
            raise email_not_found() if isinstance(key, str) else user_not_found()
        active = status is UserStatus.ACTIVE
        event_type = AuditType.USER_ENABLE if active else AuditType.USER_DISABLE
        await record_event(connection, now, AuditEvent(event_type, call, user_id))
        return user_id


def account_key(account: UserId | str) -> UserId | str:
    """Return the id or, if `account` contains an at sign, the canonical form of the address."""
    if isinstance(account, UUID):
        return account
    if "@" in account:
        return parse_email(account).canonical
    try:
        return UserId(UUID(account))
    except ValueError:
        raise user_not_found() from None
