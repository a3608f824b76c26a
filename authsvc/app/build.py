"""Owns the composition: settings in, use cases and handlers out; only here do parts meet."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from authsvc.app.foundation import Foundation, lay
from authsvc.config import Settings
from authsvc.core.accounts.accounts import Accounts
from authsvc.core.accounts.deletion import AccountDeletion
from authsvc.core.accounts.own_data import AccountData
from authsvc.core.accounts.password_change import PasswordChange
from authsvc.core.accounts.password_reset import PasswordRecovery
from authsvc.core.api_keys.keys import ApiKeys
from authsvc.core.codes.email_change import EmailChange
from authsvc.core.codes.email_verification import EmailVerification
from authsvc.core.codes.one_time_codes import OneTimeCodes
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.codes.redemption import CodeProofs
from authsvc.core.codes.requests import CodeLimits, CodeRequests
from authsvc.core.factors.challenges import SecondFactors
from authsvc.core.factors.changes import FactorChanges
from authsvc.core.factors.own_factors import Factors
from authsvc.core.factors.passkey_registration import (
    BeginPasskeyRegistration,
    FinishPasskeyRegistration,
)
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.proofs import FactorProofs
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.relying_party import RelyingParty
from authsvc.core.factors.totp import Totp
from authsvc.core.factors.totp_enrollment import TotpEnrollments
from authsvc.core.federation.authorization import OAuthStart
from authsvc.core.federation.identities import Identities
from authsvc.core.federation.states import OAuthStates
from authsvc.core.lib.clock import SystemClock
from authsvc.core.login.code import CodeLogin
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.login.federated import OAuthLogin
from authsvc.core.login.passkey import BeginPasskeyLogin, BoundAccounts, LoginWithPasskey
from authsvc.core.login.password import PasswordLogin
from authsvc.core.login.second_factor import MfaVerification
from authsvc.core.messages.delivery import CHANNEL, Deliverer
from authsvc.core.messages.stored_messages import StoredMessages
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.retention.unverified_accounts import UnverifiedAccounts
from authsvc.core.tokens.service_tokens import ServiceTokens
from authsvc.core.user_transfer.exporting import UserExport
from authsvc.core.user_transfer.importing import UserImport
from authsvc.models.clock import Clock
from authsvc.outbound.http import open_session
from authsvc.outbound.providers import open_providers
from authsvc.outbound.transport import build_transport
from authsvc.rpc.account.service import AccountHandler
from authsvc.rpc.admin.service import AdminHandler
from authsvc.rpc.auth.service import AuthHandler
from authsvc.rpc.rate_limit.service import RateLimitHandler
from authsvc.rpc.session.service import SessionHandler
from authsvc.rpc.use_cases import (
    AccountUseCases,
    AuthUseCases,
    CodeUseCases,
    FactorUseCases,
    OAuthUseCases,
    PasskeyUseCases,
)
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import check_schema


@dataclass(frozen=True, slots=True)
class Core:
    """The use cases on an open database, without any port: what commands work with."""

    base: Foundation
    auth: AuthUseCases
    account: AccountUseCases
    unverified_accounts: UnverifiedAccounts
    code_limits: CodeLimits
    passkeys: Passkeys
    messages: StoredMessages
    user_import: UserImport
    user_export: UserExport


@asynccontextmanager
async def open_core(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Core]:
    """Open the database and build the use cases on it; close it all in the end.

    Raises:
        StoreUnavailable: The database can't be reached.
        SchemaError: The database's schema is not this version's; the message says what to do.
    """
    database = await Database.open(settings.database)
    hasher = PasswordHasher(settings.passwords, settings.secrets.peppers)
    try:
        async with database.connection() as connection:
            await check_schema(connection)
        async with open_session() as http:
            yield _compose(lay(settings, clock or SystemClock(), database, hasher), http)
    finally:
        hasher.close()
        await database.close()


def open_deliverer(
    core: Core, settings: Settings, clock: Clock, count: Callable[[str], object]
) -> Deliverer:
    """Return what delivers messages, woken when some are written; `count` is told of outcomes.

    Raises:
        ConfigError: A template or something else that `delivery` names can't be used.
    """
    post = build_transport(settings.delivery, clock)
    base = core.base
    deliverer = Deliverer(base.database, base.keyring, post, settings.delivery, clock, count)
    base.listener.subscribe(CHANNEL, deliverer.wake)
    return deliverer


def handlers(core: Core) -> list[object]:
    """Return the handlers of every service, on these use cases."""
    return [
        AuthHandler(core.auth),
        AccountHandler(core.account),
        SessionHandler(core.base.sessions),
        RateLimitHandler(core.base.limiter),
        AdminHandler(core.user_import),
    ]


class _Proofs:
    """What proves who a user is, and what a proof leads to: shared by the ways to log in."""

    def __init__(self, base: Foundation) -> None:
        settings, keyring, clock = base.settings, base.keyring, base.clock
        self.codes = OneTimeCodes(keyring, settings.codes, clock)
        self.code_limits = CodeLimits(base.database, settings.codes, settings.brute_force, keyring)
        self.relying_party = RelyingParty(settings.passkeys)
        self.passkeys = Passkeys(self.relying_party, clock)
        self.totp = Totp(keyring, settings.second_factors.issuer, clock)
        self.recovery_codes = RecoveryCodes(keyring, clock)
        self.changes = FactorChanges(base.outbox, clock)
        self.arrival = AccountReclaim(base.sessions, clock)
        second_factors = SecondFactors(settings.second_factors, self.totp, self.passkeys, clock)
        self.completion = LoginCompletion(base.sessions, second_factors, settings.codes, clock)


def _compose(base: Foundation, http: aiohttp.ClientSession) -> Core:
    settings, database, clock = base.settings, base.database, base.clock
    proofs = _Proofs(base)
    codes = _codes(base, proofs)
    accounts = Accounts(
        database, base.hasher, base.policy, base.sessions, base.brute_force, codes.requests, clock
    )
    factors = _factors(base, proofs)
    passkeys = _passkeys(base, proofs)
    oauth = _oauth(base, proofs, http)
    auth = AuthUseCases(
        login=PasswordLogin(database, base.hasher, base.attempts, proofs.completion),
        accounts=accounts,
        sessions=base.sessions,
        tokens=base.validation,
        service_tokens=ServiceTokens(
            database, base.access_tokens, base.validation, settings.tokens, clock
        ),
        api_keys=base.api_key_validation,
        keys=base.keys,
        codes=codes,
        passkeys=passkeys,
        factors=factors,
        oauth=oauth,
    )
    account = _account(base, proofs, auth)
    return Core(
        base=base,
        auth=auth,
        account=account,
        unverified_accounts=UnverifiedAccounts(
            database, account.account_deletion, settings.retention, clock
        ),
        code_limits=proofs.code_limits,
        passkeys=proofs.passkeys,
        messages=StoredMessages(database, base.keyring, settings.delivery.abandon_after, clock),
        user_import=UserImport(database, base.hasher, settings.imports, clock),
        user_export=UserExport(database, clock),
    )


def _account(base: Foundation, proofs: _Proofs, auth: AuthUseCases) -> AccountUseCases:
    database, clock, outbox = base.database, base.clock, base.outbox
    attempts, recent_login = base.attempts, base.recent_login
    return AccountUseCases(
        accounts=auth.accounts,
        factors=auth.factors,
        passkeys=auth.passkeys,
        oauth=auth.oauth,
        email_change=EmailChange(
            database, proofs.codes, proofs.code_limits, attempts, outbox, recent_login, clock
        ),
        password_change=PasswordChange(
            database, base.hasher, base.policy, attempts, recent_login, base.sessions, outbox, clock
        ),
        api_keys=ApiKeys(
            database,
            outbox,
            base.limiter,
            base.brute_force,
            recent_login,
            base.settings.api_keys,
            clock,
            base.api_key_validation.forget,
        ),
        account_data=AccountData(database, recent_login, clock),
        account_deletion=AccountDeletion(database, recent_login, outbox, clock, base.on_revocation),
    )


def _codes(base: Foundation, proofs: _Proofs) -> CodeUseCases:
    database, attempts, outbox, clock = base.database, base.attempts, base.outbox, base.clock
    codes = proofs.codes
    code_proofs = CodeProofs(codes, proofs.arrival, clock)
    return CodeUseCases(
        CodeRequests(database, codes, outbox, proofs.code_limits, clock),
        EmailVerification(database, codes, attempts, clock),
        CodeLogin(database, code_proofs, attempts, proofs.completion),
        PasswordRecovery(
            database,
            code_proofs,
            attempts,
            base.hasher,
            base.policy,
            base.sessions,
            outbox,
            clock,
        ),
    )


def _factors(base: Foundation, proofs: _Proofs) -> FactorUseCases:
    database, attempts, outbox, clock = base.database, base.attempts, base.outbox, base.clock
    settings, recent_login = base.settings.second_factors, base.recent_login
    totp, recovery_codes, changes = proofs.totp, proofs.recovery_codes, proofs.changes
    accepted = FactorProofs(totp, recovery_codes, proofs.passkeys, changes, outbox, clock)
    return FactorUseCases(
        MfaVerification(database, settings, attempts, proofs.completion, accepted, clock),
        Factors(database, settings, recent_login, recovery_codes, changes, outbox, clock),
        TotpEnrollments(database, settings, recent_login, attempts, totp, recovery_codes, changes),
    )


def _passkeys(base: Foundation, proofs: _Proofs) -> PasskeyUseCases:
    database, clock, recent_login = base.database, base.clock, base.recent_login
    accounts, relying_party = BoundAccounts(base.keyring), proofs.relying_party
    max_factors = base.settings.second_factors.max_per_user
    return PasskeyUseCases(
        BeginPasskeyLogin(database, relying_party, accounts, base.brute_force, clock),
        LoginWithPasskey(
            database, proofs.passkeys, accounts, base.attempts, proofs.completion, clock
        ),
        BeginPasskeyRegistration(database, relying_party, recent_login, max_factors, clock),
        FinishPasskeyRegistration(
            database,
            relying_party,
            recent_login,
            proofs.changes,
            proofs.recovery_codes,
            max_factors,
            clock,
        ),
    )


def _oauth(base: Foundation, proofs: _Proofs, http: aiohttp.ClientSession) -> OAuthUseCases:
    database, clock, settings = base.database, base.clock, base.settings.oauth
    states = OAuthStates(database, base.keyring, settings.state_lifetime, clock)
    identities = Identities(database, base.recent_login, base.outbox, clock)
    providers = open_providers(settings, http, clock)
    return OAuthUseCases(
        OAuthStart(
            states, providers, settings, base.brute_force, base.validation, base.recent_login
        ),
        OAuthLogin(
            database,
            states,
            providers,
            base.attempts,
            proofs.completion,
            identities,
            proofs.arrival,
            clock,
        ),
        identities,
    )
