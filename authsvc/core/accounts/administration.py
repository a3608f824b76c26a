"""Owns what operators change of a user: profile, roles, locks, and how the password goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.core.codes.requests import CodeRequests
from authsvc.core.lib.emails import parse_new_email
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.revocations.user_tokens import revoke_tokens
from authsvc.core.roles.permissions import Permissions
from authsvc.core.sessions.ending import SessionEnding
from authsvc.errors import user_disabled, user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.messages import Delivery
from authsvc.models.revocations import EndedSessions, Revocation, RevocationCursor
from authsvc.models.sessions import RevokeReason
from authsvc.store import devices, emails, one_time_codes, revocations, users
from authsvc.store import user_administration as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.user_administration import Profile


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change of a user; None leaves it as it is.

    A new address counts as unverified, unless `email_verified` says that the operator knows it.
    """

    display_name: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    email_verified: bool | None = None

    @property
    def fields(self) -> list[str]:
        """The names of what is to change."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]


class UserAdministration:
    """Changes users for operators.

    `forget` drops what was revoked from this process's caches; other replicas hear of it soon.
    """

    def __init__(  # noqa: PLR0913 - all but the last are parts
        self,
        *,
        database: Database,
        sessions: SessionEnding,
        brute_force: BruteForce,
        codes: CodeRequests,
        outbox: Outbox,
        permissions: Permissions,
        forget: Callable[[Revocation], None],
        clock: Clock,
        directory_domains: bool = False,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._brute_force = brute_force
        self._codes = codes
        self._outbox = outbox
        self._permissions = permissions
        self._forget = forget
        self._clock = clock
        self._directory_domains = directory_domains

    async def update(self, call: Call, user_id: UserId, change: ProfileChange) -> None:
        """Change a user's profile; a changed address is announced to the old one.

        Codes that were sent to the old address become invalid.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: EMAIL_INVALID.
            AlreadyExists: EMAIL_TAKEN.
        """
        now = self._clock.now()
        async with self._database.transaction(user_id) as connection:
            before = await store.lock_profile(connection, user_id)
            if before is None:
                raise user_not_found()
            after = self._changed(before, change, now)
            if after == before:
                return
            await store.set_profile(connection, user_id, after, now)
            if after.email_canonical != before.email_canonical:
                await one_time_codes.delete_of_user(connection, user_id)
                # Without a user id, so that the notice outlives the account.
                notice = Message(
                    MessageKind.EMAIL_CHANGED,
                    before.email,
                    None,
                    values={"display_name": before.display_name},
                )
                await self._outbox.enqueue(connection, notice)
                await record_event(
                    connection, now, AuditEvent(AuditType.EMAIL_CHANGE, call, user_id)
                )
            detail = {"fields": change.fields}
            event = AuditEvent(AuditType.ACCOUNT_UPDATE, call, user_id, detail=detail)
            await record_event(connection, now, event)

    def _changed(self, before: Profile, change: ProfileChange, now: datetime) -> Profile:
        email, canonical, verified = before.email, before.email_canonical, before.email_verify_time
        if change.email is not None:
            new = parse_new_email(change.email, directory_domains=self._directory_domains)
            email, canonical = new.address, new.canonical
            if canonical != before.email_canonical:
                verified = None
        if change.email_verified is not None:
            verified = (verified or now) if change.email_verified else None
        name = before.display_name if change.display_name is None else change.display_name
        return Profile(email, canonical, verified, name)

    async def set_roles(
        self, call: Call, user_id: UserId, roles: Sequence[str]
    ) -> RevocationCursor:
        """Replace a user's roles; return what names that, also if they were these already.

        If a role is removed, the tokens that were issued before are refused; sessions go on, and a
        refresh gives new tokens. If a role is added that requires a second factor, the user's
        sessions end, as they may have begun without one.

        Raises:
            NotFound: USER_NOT_FOUND.
            FieldInvalid: A role is not defined; those that are, are named.
        """
        roles = tuple(dict.fromkeys(roles))
        # As they are defined by now: another replica may just have made one require a factor.
        await self._permissions.refresh()
        self._permissions.check_defined(roles)
        async with self._database.transaction(user_id) as connection:
            user = await users.lock_user(connection, user_id)
            if user is None:
                raise user_not_found()
            # Not before: whatever was issued before this user was locked is older than that.
            now = self._clock.now()
            added = [role for role in roles if role not in user.roles]
            removed = [role for role in user.roles if role not in roles]
            if not added and not removed:
                return await revocations.cursor_of_now(connection)
            await store.set_roles(connection, user_id, roles, now)
            detail = {"added": added, "removed": removed}
            event = AuditEvent(AuditType.USER_ROLES_SET, call, user_id, detail=detail)
            await record_event(connection, now, event)
            if self._permissions.require_second_factor(added):
                await self._sessions.revoke_in(connection, call, user_id, RevokeReason.REVOKED)
                await devices.forget_trust(connection, user_id)
            if removed:
                await revoke_tokens(connection, user_id, now)
            else:
                # The caches hold the old roles.
                await revocations.append(connection, now, user_id=user_id, cache_only=True)
            cursor = await revocations.cursor_of_now(connection)
        self._forget(Revocation("user", str(user_id)))
        return cursor

    async def unlock(self, call: Call, user_id: UserId) -> None:
        """Forget a user's failed logins, and the guesses that the account's limits have counted.

        Raises:
            NotFound: USER_NOT_FOUND.
        """
        now = self._clock.now()
        async with self._database.transaction(user_id) as connection:
            unlocked = await store.unlock(connection, user_id, now)
            if unlocked is None:
                raise user_not_found()
            since = now - self._brute_force.longest_window
            ips = await store.list_failed_from(connection, user_id, since)
            await record_event(connection, now, AuditEvent(AuditType.USER_UNLOCK, call, user_id))
        clients = [ClientContext(ip=ip) for ip in ips]
        await self._brute_force.unlock(unlocked.email_canonical, unlocked.devices, clients)

    async def start_password_reset(
        self, call: Call, user_id: UserId, delivery: Delivery
    ) -> IssuedCode:
        """Issue a code with which the user can set a password, and send it to the user's address.

        Raises:
            NotFound: USER_NOT_FOUND.
            FailedPrecondition: USER_DISABLED.
        """
        purpose = Purpose.RESET_PASSWORD
        async with self._database.transaction(user_id) as connection:
            await self._lock(connection, user_id)
            addressee = await emails.of_user(connection, user_id)
            if addressee is None:
                raise user_not_found()
            if not addressee.active:
                raise user_disabled()
            issued = await self._codes.issue(
                connection, purpose, addressee.email_canonical, addressee, delivery
            )
            detail = {"purpose": purpose.value, "delivery": delivery.value}
            event = AuditEvent(AuditType.PASSWORD_RESET_REQUEST, call, user_id, detail=detail)
            await record_event(connection, self._clock.now(), event)
        return issued

    async def require_password_change(
        self, call: Call, user_id: UserId, *, keep_sessions: bool
    ) -> EndedSessions:
        """Let a user's present password open no more sessions, until it has been changed.

        Logins that wait for a second factor end, and so do the user's sessions, unless they are to
        be kept. Return how many were active.

        Raises:
            NotFound: USER_NOT_FOUND.
        """
        now = self._clock.now()
        async with self._database.transaction(user_id) as connection:
            await self._lock(connection, user_id)
            await store.require_password_change(connection, user_id, now)
            await devices.forget_trust(connection, user_id)
            event = AuditEvent(AuditType.PASSWORD_CHANGE_REQUIRE, call, user_id)
            await record_event(connection, now, event)
            if keep_sessions:
                return EndedSessions(0, None)
            reason = RevokeReason.PASSWORD_CHANGED
            count = await self._sessions.revoke_in(connection, call, user_id, reason)
            return EndedSessions(count, revocations.noted(connection))

    async def _lock(self, connection: Connection, user_id: UserId) -> None:
        if await users.lock_user(connection, user_id) is None:
            raise user_not_found()
