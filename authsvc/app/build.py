"""Owns the composition: it builds use cases and handlers from settings, and nothing else does.

Each file builds the parts of its topics on top of those before it: `build_base.py` what many topics
need, then `build_logins.py` and `build_accounts.py`, and this one the rest.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property

from authsvc.app.build_accounts import AccountBuild
from authsvc.config import Settings
from authsvc.core.accounts.own_data import AccountData
from authsvc.core.attempts.attempts import Attempts
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.audit.forwarding import AuditForwarding
from authsvc.core.audit.listing import AuditListing
from authsvc.core.audit.watching import AuditWatch
from authsvc.core.codes.requests import CodeLimits
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.incidents.detections import Detections
from authsvc.core.incidents.evidence import EvidenceExport
from authsvc.core.incidents.steps import IncidentSteps
from authsvc.core.lib.clock import DatabaseClock, SystemClock
from authsvc.core.lib.definitions import Definitions
from authsvc.core.lib.last_use import LastUse
from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.lib.sealing import Keyring
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.violations import Violations
from authsvc.core.login.logins import Logins
from authsvc.core.messages.delivery import Deliverer
from authsvc.core.messages.outbox import Outbox
from authsvc.core.messages.stored_messages import StoredMessages
from authsvc.core.passwords.breached import BreachedPasswords
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.retention import addresses, unverified_accounts
from authsvc.core.retention.addresses import AddressTruncation
from authsvc.core.retention.cleanup import Retention, Step
from authsvc.core.retention.unverified_accounts import UnverifiedAccounts
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.core.revocations.validity import TokenValidity
from authsvc.core.secrets_at_rest.key_ages import KeyAges
from authsvc.core.secrets_at_rest.key_usage import KeyUsage
from authsvc.core.secrets_at_rest.resealing import Resealing
from authsvc.core.session_keys.keys import SessionKeys
from authsvc.core.session_keys.statements import Statements
from authsvc.core.session_keys.turn import TurnCredentials
from authsvc.core.sessions.listing import SessionListing
from authsvc.core.sessions.refresh import SessionRefresh
from authsvc.core.tokens.service_tokens import ServiceTokens
from authsvc.core.use_cases import UseCases
from authsvc.core.user_transfer.exporting import UserExport
from authsvc.core.user_transfer.importing import UserImport
from authsvc.measures import Histogram
from authsvc.models.clock import Clock
from authsvc.models.ids import ApiKeyId, SessionId
from authsvc.models.revocations import LoggedRevocation
from authsvc.outbound.audit_target import audit_target
from authsvc.outbound.http import open_session
from authsvc.outbound.proxy import proxy_rules
from authsvc.outbound.transport import build_transport
from authsvc.rpc.account.service import AccountHandler
from authsvc.rpc.admin.service import AdminHandler
from authsvc.rpc.auth.service import AuthHandler
from authsvc.rpc.rate_limit.service import RateLimitHandler
from authsvc.rpc.session.service import SessionHandler
from authsvc.store.doorbell import Channel
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import check_schema
from authsvc.tracing import Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The use cases on an open database, and other parts that the service and commands use.

    No port is open yet.
    """

    use: UseCases
    database: Database
    hasher: PasswordHasher
    keyring: Keyring
    outbox: Outbox
    clock: Clock
    doorbell: Doorbell
    definitions: Definitions
    revocation_reader: LogFollower[LoggedRevocation]
    revocation_delays: Histogram
    token_validity: TokenValidity
    session_last_use: LastUse[SessionId]
    api_key_last_use: LastUse[ApiKeyId]
    attempts: Attempts
    brute_force: BruteForce
    code_limits: CodeLimits
    passkeys: Passkeys
    breached_passwords: BreachedPasswords | None
    block_list: BlockList
    violations: Violations


@asynccontextmanager
async def open_parts(
    settings: Settings, clock: Clock | None = None, *, machine: Clock | None = None
) -> AsyncIterator[Parts]:
    """Open the database and build the use cases on it; close everything on exit.

    They use `clock`, or else the database's clock; `machine` is the clock of this machine.

    Raises:
        StoreUnavailable: The database can't be reached.
        SchemaError: The database has another schema version; the message says what to do.
    """
    database = await Database.open(settings.database)
    hasher = PasswordHasher(settings.passwords, settings.secrets.peppers)
    try:
        async with database.connection() as connection:
            await check_schema(connection)
        async with open_session() as http:
            build = _Build(
                settings=settings,
                clock=clock or await DatabaseClock.open(database, machine or SystemClock()),
                database=database,
                hasher=hasher,
                http=http,
            )
            try:
                parts = build.parts()
                await parts.definitions.refresh()
                yield parts
            finally:
                await build.doorbell.close()
                build.signer.close()
    finally:
        hasher.close()
        await database.close()


def open_deliverer(parts: Parts, settings: Settings, tracer: Tracer | None = None) -> Deliverer:
    """Return the deliverer, woken when messages are enqueued.

    Raises:
        ConfigError: A template or another file named in `delivery` can't be used.
    """
    deliverer = Deliverer(
        database=parts.database,
        keyring=parts.keyring,
        transport=build_transport(settings.delivery, proxy_rules(settings.outbound), parts.clock),
        settings=settings.delivery,
        clock=parts.clock,
        tracer=tracer,
    )
    parts.doorbell.answer(Channel.OUTBOX, deliverer.wake)
    return deliverer


def open_forwarding(parts: Parts, settings: Settings) -> AuditForwarding | None:
    """Return what forwards audit events, or None without a target.

    Raises:
        ConfigError: A file named in `audit.forward` can't be used.
    """
    forward = settings.audit.forward
    target = audit_target(forward, proxy_rules(settings.outbound), parts.clock)
    if target is None:
        return None
    return AuditForwarding(
        database=parts.database, target=target, settings=forward, clock=parts.clock
    )


def handlers(use: UseCases) -> list[object]:
    """Return the handlers of all gRPC services."""
    return [
        AuthHandler(use),
        AccountHandler(use),
        SessionHandler(use),
        RateLimitHandler(use),
        AdminHandler(use),
    ]


class _Build(AccountBuild):
    """Builds the remaining parts, and assembles all of them; see `BaseBuild`."""

    def parts(self) -> Parts:
        return Parts(
            use=self.use_cases(),
            database=self.database,
            hasher=self.hasher,
            keyring=self.keyring,
            outbox=self.outbox,
            clock=self.clock,
            doorbell=self.doorbell,
            revocation_reader=self.revocation_reader,
            revocation_delays=self.revocation_delays,
            token_validity=self.token_validity,
            definitions=self.definitions,
            session_last_use=self.session_last_use,
            api_key_last_use=self.api_key_last_use,
            attempts=self.attempts,
            brute_force=self.brute_force,
            code_limits=self.code_limits,
            passkeys=self.passkeys,
            breached_passwords=self.breached_passwords,
            block_list=self.block_list,
            violations=self.violations,
        )

    def use_cases(self) -> UseCases:
        return UseCases(
            password_login=self.password_login,
            code_login=self.code_login,
            passkey_login_start=self.passkey_login_start,
            passkey_login=self.passkey_login,
            oauth_start=self.oauth_start,
            oauth_login=self.oauth_login,
            mfa_verification=self.mfa_verification,
            login_freezes=self.login_freezes,
            logins=Logins(self.login_freezes),
            session_opening=self.session_opening,
            session_validation=self.session_validation,
            session_refresh=self.session_refresh,
            session_ending=self.session_ending,
            session_listing=SessionListing(self.database, self.clock),
            session_cookies=self.session_cookies,
            bulk_session_ending=self.bulk_session_ending,
            impersonation=self.impersonation,
            revocation_watch=self.revocation_watch,
            session_keys=self.session_keys,
            turn_credentials=self.turn_credentials,
            token_validation=self.token_validation,
            slices=self.slices,
            service_tokens=self.service_tokens,
            signing_keys=self.signing_keys,
            accounts=self.accounts,
            account_data=AccountData(self.database, self.recent_login, self.clock),
            account_deletion=self.account_deletion,
            password_change=self.password_change,
            password_reset=self.password_reset,
            user_administration=self.user_administration,
            code_requests=self.code_requests,
            email_verification=self.email_verification,
            email_change=self.email_change,
            factors=self.factors,
            totp_enrollments=self.totp_enrollments,
            passkey_registration_start=self.passkey_registration_start,
            passkey_registration=self.passkey_registration,
            passkey_signalling=self.passkey_signalling,
            identities=self.identities,
            api_keys=self.api_keys,
            api_key_validation=self.api_key_validation,
            rate_limiter=self.rate_limiter,
            policies=self.policies,
            role_definitions=self.role_definitions,
            screening=self.screening,
            ip_blocking=self.ip_blocking,
            account_listing=self.account_listing,
            audit_listing=AuditListing(self.database, self.clock),
            audit_watch=AuditWatch(self.database, self.clock, self.settings.retention.audit_events),
            stored_messages=self.stored_messages,
            user_import=self.user_import,
            user_export=UserExport(self.database, self.clock),
            retention=self.retention,
            unverified_accounts=self.unverified_accounts,
            detections=self.detections,
            incident_steps=self.incident_steps,
            evidence_export=EvidenceExport(self.database, self.signing_keys, self.ip_blocking),
            resealing=Resealing(self.database, self.keyring, self.clock),
            key_usage=self.key_usage,
            key_ages=self.key_ages,
        )

    @cached_property
    def session_refresh(self) -> SessionRefresh:
        return SessionRefresh(
            database=self.database,
            cache=self.session_cache,
            codec=self.refresh_codec,
            issuer=self.token_issuer,
            sessions=self.settings.sessions,
            tokens=self.settings.tokens,
            clock=self.clock,
        )

    @cached_property
    def session_keys(self) -> SessionKeys:
        return SessionKeys(
            database=self.database,
            validation=self.session_validation,
            statements=Statements(self.signing_keys, self.settings.tokens, self.clock),
            brute_force=self.brute_force,
            sessions=self.settings.sessions,
            tokens=self.settings.tokens,
            clock=self.clock,
            slices=self.slices,
        )

    @cached_property
    def turn_credentials(self) -> TurnCredentials:
        return TurnCredentials(
            database=self.database,
            validation=self.session_validation,
            brute_force=self.brute_force,
            settings=self.settings.turn,
            clock=self.clock,
        )

    @cached_property
    def service_tokens(self) -> ServiceTokens:
        return ServiceTokens(
            database=self.database,
            access_tokens=self.access_tokens,
            validation=self.token_validation,
            settings=self.settings.tokens,
            clock=self.clock,
        )

    # Operations

    @cached_property
    def stored_messages(self) -> StoredMessages:
        return StoredMessages(
            database=self.database,
            keyring=self.keyring,
            abandon_after=self.settings.delivery.abandon_after,
            clock=self.clock,
        )

    @cached_property
    def user_import(self) -> UserImport:
        return UserImport(
            database=self.database,
            hasher=self.hasher,
            permissions=self.permissions,
            settings=self.settings.imports,
            clock=self.clock,
            directory_domains=self.settings.emails.directory_domains,
        )

    @cached_property
    def unverified_accounts(self) -> UnverifiedAccounts:
        return UnverifiedAccounts(
            database=self.database,
            deletion=self.account_deletion,
            settings=self.settings.retention,
            sessions=self.settings.sessions,
            clock=self.clock,
        )

    @cached_property
    def key_usage(self) -> KeyUsage:
        return KeyUsage(
            database=self.database,
            keyring=self.keyring,
            pepper_ids=[pepper.id for pepper in self.settings.secrets.peppers],
            missing_keys=self.settings.encryption.missing_keys,
        )

    @cached_property
    def key_ages(self) -> KeyAges:
        return KeyAges(
            database=self.database,
            newest_key_id=self.keyring.newest.key_id,
            newest_pepper_id=self.settings.secrets.peppers[0].id,
            clock=self.clock,
        )

    @cached_property
    def retention(self) -> Retention:
        truncation = AddressTruncation(
            database=self.database,
            settings=self.settings.retention,
            sessions=self.settings.sessions,
            clock=self.clock,
        )
        return Retention(
            database=self.database,
            settings=self.settings.retention,
            clock=self.clock,
            others={
                unverified_accounts.KIND: Step(
                    self.unverified_accounts.remove, self.unverified_accounts.plan
                ),
                addresses.SESSIONS: Step(truncation.truncate_sessions, truncation.plan_sessions),
                addresses.EVENTS: Step(truncation.truncate_events, truncation.plan_events),
            },
        )

    @cached_property
    def detections(self) -> Detections:
        return Detections(
            database=self.database,
            settings=self.settings.detections,
            networks=self.settings.brute_force,
            clock=self.clock,
        )

    @cached_property
    def incident_steps(self) -> IncidentSteps:
        return IncidentSteps(
            database=self.database,
            sessions=self.bulk_session_ending,
            administration=self.user_administration,
            signing_keys=self.signing_keys,
            clock=self.clock,
        )
