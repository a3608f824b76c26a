"""Owns the completion of a login at an external provider: finding or creating the account.

A user is identified by provider and subject, never by address (ASVS 6.8.1). If the provider says
that the address is verified, an unknown user gets a new account, or the account with this address
if the address was never verified there. An identity is linked to an account with a verified address
only from within that account.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import structlog

from authsvc.core.attempts.attempts import Attempt, Attempts, Cause, Rejected
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.federation.identities import Identities
from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity, Providers
from authsvc.core.federation.states import OAuthStates, PendingLogin
from authsvc.core.lib.emails import Email, parse_email, parse_new_email
from authsvc.core.lib.ids import uuid7
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.roles.permissions import DEFAULT_ROLES
from authsvc.errors import (
    FieldInvalid,
    StoreUnavailable,
    Unauthenticated,
    email_not_verified,
    link_requires_login,
    state_invalid,
)
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.factors import LoginOutcome
from authsvc.models.federation import Identity
from authsvc.models.ids import UserId
from authsvc.models.users import LockedUser, User, UserOrigin, UserStatus
from authsvc.store import emails, identities, users
from authsvc.store.identities import LinkedAccount
from authsvc.store.postgres.database import Connection, Database

METHODS = ("fed",)  # RFC 8176 defines no method for a federated login
_TRIES = 3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OAuthOutcome:
    """The outcome of a login; `new_user` if it created the account."""

    outcome: LoginOutcome
    new_user: bool = False


@dataclass(frozen=True, slots=True)
class _Login:
    """A login whose user the provider has identified."""

    call: Call
    client: ClientContext
    pending: PendingLogin
    external: ExternalIdentity


# What to do for the account of the attempt, within a transaction.
_Action: TypeAlias = Callable[[Connection, Attempt, _Login], Awaitable[OAuthOutcome]]


class _StaleDecision(StoreUnavailable):
    """The action was chosen on data that has since changed; choose again."""


class OAuthLogin:
    """Logs in users who logged in at an external provider."""

    def __init__(  # noqa: PLR0913 - all but the last are parts
        self,
        *,
        database: Database,
        states: OAuthStates,
        providers: Providers,
        attempts: Attempts,
        completion: LoginCompletion,
        linked: Identities,
        reclaim: AccountReclaim,
        clock: Clock,
        directory_domains: bool = False,
    ) -> None:
        self._database = database
        self._states = states
        self._providers = providers
        self._attempts = attempts
        self._completion = completion
        self._linked = linked
        self._reclaim = reclaim
        self._clock = clock
        self._directory_domains = directory_domains

    async def complete(
        self, call: Call, state: str, answer: AuthorizationAnswer, client: ClientContext
    ) -> OAuthOutcome:
        """Complete a login with the state and the answer that the provider's redirect carried.

        The state is used up before the provider is called, so that nothing can be tried twice. The
        login works while too many failures lock the account: a provider's answer can't be guessed.

        Raises:
            FailedPrecondition: STATE_INVALID, also if the session to link from has ended;
                EMAIL_NOT_VERIFIED; LINK_REQUIRES_LOGIN, also if the identity is another user's;
                LIMIT_REACHED.
            FieldInvalid: The answer has no issuer, although this provider sends it.
            Unauthenticated: CREDENTIALS_INVALID: refused by the provider, or a disabled account.
            ProviderUnavailable: The provider did not answer in time, or answered incorrectly.
            ProviderMisconfigured: An operator has to mend something; the log says what.
            TooManyAttempts: Too many proofs from the client's network failed before.
        """
        pending = await self._states.claim(state)
        if pending.provider not in self._providers:
            raise state_invalid()
        login = _Login(call, client, pending, await self._identify(call, pending, answer, client))
        for _ in range(_TRIES - 1):
            try:
                return await self._attempt(login)
            except _StaleDecision:
                # Caused by a parallel login of the same user, whose changes are visible by now.
                continue
        return await self._attempt(login)

    async def _identify(
        self, call: Call, pending: PendingLogin, answer: AuthorizationAnswer, client: ClientContext
    ) -> ExternalIdentity:
        try:
            async with self._providers.use(pending.provider) as provider:
                return await provider.identify(
                    answer, pending.verifier, pending.nonce, pending.redirect_uri
                )
        except Unauthenticated:
            detail = {"cause": "provider", "provider": pending.provider}
            event = AuditEvent(AuditType.LOGIN_FAILURE, call, client=client, detail=detail)
            async with self._database.connection() as connection:
                await record_event(connection, self._clock.now(), event)
            raise

    async def _attempt(self, login: _Login) -> OAuthOutcome:
        account, action = await self._choose(login)
        async with (
            self._attempts.evaluate(login.call, account, login.client, guessable=False) as attempt,
            self._database.transaction(account) as connection,
        ):
            return await action(connection, attempt, login)

    async def _choose(self, login: _Login) -> tuple[str, _Action]:
        """Return the canonical address of the account concerned, and the action to take on it."""
        pending, external = login.pending, login.external
        async with self._database.connection() as connection:
            if pending.link_session_id is not None:
                linking = await identities.find_linking(connection, pending.link_session_id)
                if linking is None:
                    raise state_invalid()
                return linking.email_canonical, self._link
            linked = await identities.find_account(connection, pending.provider, external.subject)
        if linked is not None:
            return linked.email_canonical, self._log_in
        email = _verified_email(pending.provider, external, self._directory_domains)
        return email.canonical, self._create_or_reclaim

    async def _log_in(
        self, connection: Connection, attempt: Attempt, login: _Login
    ) -> OAuthOutcome:
        user = await self._confirm(connection, attempt)
        if not await identities.use(connection, user.user_id, self._identity(login)):
            raise _StaleDecision
        return await self._finish(connection, attempt, user)

    async def _link(self, connection: Connection, attempt: Attempt, login: _Login) -> OAuthOutcome:
        user = await self._confirm(connection, attempt)
        # Checked again now that the user's row is locked: ending the sessions locks it too.
        session_id = login.pending.link_session_id
        linking = session_id and await identities.find_linking(connection, session_id)
        if not linking or linking.user_id != user.user_id:
            raise state_invalid()
        identity = self._identity(login)
        if await self._linked.add(connection, login.call, user, identity, login.client):
            await self._linked.tell_of_link(connection, user, identity.provider)
        elif not await identities.use(connection, user.user_id, identity):
            raise link_requires_login()
        user = await self._verify_address(connection, user, linking, login.external)
        return await self._finish(connection, attempt, user)

    async def _verify_address(
        self,
        connection: Connection,
        user: LockedUser,
        account: LinkedAccount,
        external: ExternalIdentity,
    ) -> LockedUser:
        """Mark the account's address as verified if the provider has verified the same one."""
        now = self._clock.now()
        if (
            user.email_verify_time is None
            and external.email_verified
            and _canonical(external) == account.email_canonical
            and await emails.verify(connection, user.user_id, account.email_canonical, now)
        ):
            return replace(user, email_verify_time=now)
        return user

    async def _create_or_reclaim(
        self, connection: Connection, attempt: Attempt, login: _Login
    ) -> OAuthOutcome:
        if attempt.subject is None:
            return await self._create(connection, attempt, login)
        user = await self._confirm(connection, attempt)
        # This also holds if the account's address was changed in the meantime.
        if user.email_verify_time is not None:
            pending, external = login.pending, login.external
            if await identities.find_account(connection, pending.provider, external.subject):
                # A parallel login of the same user has created or reclaimed the account.
                raise _StaleDecision
            raise link_requires_login()
        owner = replace(
            user,
            email=login.external.email,
            display_name=login.external.display_name,
            email_verify_time=self._clock.now(),
            has_second_factor=False,
        )
        owner = await self._reclaim.reclaim(connection, login.call, owner, login.client)
        await self._add(connection, owner, login)
        return await self._finish(connection, attempt, owner)

    async def _create(
        self, connection: Connection, attempt: Attempt, login: _Login
    ) -> OAuthOutcome:
        now = self._clock.now()
        user = User(
            user_id=UserId(uuid7(now)),
            email=login.external.email,
            display_name=login.external.display_name,
            roles=DEFAULT_ROLES,
            status=UserStatus.ACTIVE,
            create_time=now,
            email_verify_time=now,
        )
        if not await users.insert(
            connection, user, email_canonical=attempt.account, origin=UserOrigin.FEDERATED
        ):
            raise _StaleDecision
        detail = {"provider": login.pending.provider}
        event = AuditEvent(
            AuditType.REGISTER, login.call, user.user_id, client=login.client, detail=detail
        )
        await record_event(connection, now, event)
        await self._add(connection, user, login)
        await users.note_login(connection, user.user_id, now)
        return replace(await self._finish(connection, attempt, user), new_user=True)

    async def _add(self, connection: Connection, user: User, login: _Login) -> None:
        identity = self._identity(login)
        if not await self._linked.add(connection, login.call, user, identity, login.client):
            raise _StaleDecision

    async def _confirm(self, connection: Connection, attempt: Attempt) -> LockedUser:
        """Return the attempt's account, which must be active, with its row locked from now on."""
        if attempt.subject is None:
            raise _StaleDecision
        user = await users.confirm(connection, attempt.subject.user_id, self._clock.now())
        if user is None:
            raise Rejected(Cause.DISABLED)
        return user

    async def _finish(self, connection: Connection, attempt: Attempt, user: User) -> OAuthOutcome:
        outcome = await self._completion.complete(connection, attempt, user, METHODS)
        return OAuthOutcome(outcome)

    def _identity(self, login: _Login) -> Identity:
        now, external = self._clock.now(), login.external
        return Identity(login.pending.provider, external.subject, external.email, now, now)


def _verified_email(provider: str, external: ExternalIdentity, directory_domains: bool) -> Email:
    """Return the address that the provider verified; if there is none, log what was missing.

    Raises:
        FailedPrecondition: EMAIL_NOT_VERIFIED: there is none, or it is not a valid address.
    """
    missing = external.missing
    if external.email_verified:
        try:
            return parse_new_email(external.email, directory_domains=directory_domains)
        except FieldInvalid:
            missing = "email is not an address"
    log.warning("provider_email_not_verified", provider=provider, missing=missing)
    raise email_not_verified()


def _canonical(external: ExternalIdentity) -> str:
    try:
        return parse_email(external.email).canonical
    except FieldInvalid:
        return ""
