"""Owns the composition: settings in, use cases and handlers out; only here do parts meet."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from authsvc.config import OAuthSettings, ProviderSettings, Settings
from authsvc.core.access_tokens import AccessTokens
from authsvc.core.account_data import AccountData
from authsvc.core.account_deletion import AccountDeletion
from authsvc.core.accounts import Accounts
from authsvc.core.api_key_validation import ApiKeyValidation
from authsvc.core.api_keys import ApiKeys
from authsvc.core.attempts import Attempts
from authsvc.core.brute_force import BruteForce
from authsvc.core.clock import SystemClock
from authsvc.core.code_login import CodeLogin
from authsvc.core.code_requests import CodeLimits, CodeRequests
from authsvc.core.delivery import CHANNEL, Deliverer
from authsvc.core.email_change import EmailChange
from authsvc.core.factor_changes import FactorChanges
from authsvc.core.factor_proofs import FactorProofs
from authsvc.core.factors import Factors
from authsvc.core.hashing import PasswordHasher
from authsvc.core.identities import Identities
from authsvc.core.login import PasswordLogin
from authsvc.core.login_completion import LoginCompletion
from authsvc.core.mfa_verification import MfaVerification
from authsvc.core.oauth import OAuthStart
from authsvc.core.oauth_login import OAuthLogin
from authsvc.core.oauth_states import OAuthStates
from authsvc.core.one_time_codes import OneTimeCodes
from authsvc.core.outbox import Outbox
from authsvc.core.owner_arrival import OwnerArrival
from authsvc.core.passkey_login import AccountHashes, BeginPasskeyLogin, LoginWithPasskey
from authsvc.core.passkey_registration import (
    BeginPasskeyRegistration,
    FinishPasskeyRegistration,
)
from authsvc.core.passkeys import Passkeys
from authsvc.core.password_change import PasswordChange
from authsvc.core.passwords import PasswordPolicy
from authsvc.core.providers import Provider, Providers
from authsvc.core.rate_limits import RateLimiter, policies_from
from authsvc.core.recent_login import RecentLogin
from authsvc.core.recovery import PasswordRecovery
from authsvc.core.recovery_codes import RecoveryCodes
from authsvc.core.refresh_tokens import RefreshTokenCodec
from authsvc.core.relying_party import RelyingParty
from authsvc.core.revocations import Revocation, RevocationListener
from authsvc.core.sealing import Keyring
from authsvc.core.second_factors import SecondFactors
from authsvc.core.service_tokens import ServiceTokens
from authsvc.core.sessions import Sessions
from authsvc.core.signing_keys import SigningKeys
from authsvc.core.stored_messages import StoredMessages
from authsvc.core.tokens import TokenValidation
from authsvc.core.totp import Totp
from authsvc.core.totp_enrollments import TotpEnrollments
from authsvc.core.user_export import UserExport
from authsvc.core.user_import import UserImport
from authsvc.core.verification import EmailVerification
from authsvc.models import Clock
from authsvc.outbound.github import GitHub
from authsvc.outbound.http import JsonClient, open_session
from authsvc.outbound.oidc import OpenIdConnect
from authsvc.outbound.post import open_post
from authsvc.rpc.account_service import AccountHandler
from authsvc.rpc.admin_service import AdminHandler
from authsvc.rpc.auth_service import AuthHandler
from authsvc.rpc.rate_limit_service import RateLimitHandler
from authsvc.rpc.session_service import SessionHandler
from authsvc.rpc.use_cases import (
    AccountUseCases,
    AuthUseCases,
    CodeUseCases,
    FactorUseCases,
    OAuthUseCases,
    PasskeyUseCases,
)
from authsvc.store.database import Database
from authsvc.store.migrator import check_schema


@dataclass(frozen=True, slots=True)
class Core:
    """The use cases on an open database, without any port: what commands work with."""

    database: Database
    keys: SigningKeys
    sessions: Sessions
    limiter: RateLimiter
    accounts: Accounts
    code_limits: CodeLimits
    codes: CodeUseCases
    email_change: EmailChange
    login: PasswordLogin
    passkeys: Passkeys
    passkey_use_cases: PasskeyUseCases
    factors: FactorUseCases
    oauth: OAuthUseCases
    recovery_codes: RecoveryCodes
    attempts: Attempts
    completion: LoginCompletion
    keyring: Keyring
    outbox: Outbox
    messages: StoredMessages
    password_change: PasswordChange
    account_data: AccountData
    account_deletion: AccountDeletion
    recent_login: RecentLogin
    validation: TokenValidation
    service_tokens: ServiceTokens
    api_keys: ApiKeys
    api_key_validation: ApiKeyValidation
    listener: RevocationListener
    hasher: PasswordHasher
    guard: BruteForce
    user_import: UserImport
    user_export: UserExport


@asynccontextmanager
async def open_core(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Core]:
    """Open the database and build the use cases on it; close it all in the end.

    Raises:
        StoreUnavailable: The database can't be reached.
        SchemaError: The database's schema is not this version's; the message says what to do.
    """
    clock = clock or SystemClock()
    database = await Database.open(settings.database)
    hasher = PasswordHasher(settings.passwords, settings.secrets.peppers)
    try:
        async with database.connection() as connection:
            await check_schema(connection)
        async with open_session() as http:
            yield _compose(settings, clock, database, hasher, http)
    finally:
        hasher.close()
        await database.close()


def _compose(
    settings: Settings,
    clock: Clock,
    database: Database,
    hasher: PasswordHasher,
    http: aiohttp.ClientSession,
) -> Core:
    keyring = Keyring(settings.secrets.keyring)

    # Caches are told of revocations, and ask whether these are heard: a circle, closed here.
    def on_event(event: Revocation) -> None:
        sessions.on_revocation(event)
        api_key_validation.on_revocation(event)
        keys.on_revocation(event)

    def on_gap() -> None:
        sessions.on_gap()
        api_key_validation.on_gap()
        keys.on_gap()

    listener = RevocationListener(
        settings.database, settings.sessions.cache_staleness, on_event, on_gap
    )
    keys = SigningKeys(database, keyring, settings.tokens, clock, listener.is_fresh)
    access_tokens = AccessTokens(keys, settings.tokens, settings.permissions, clock)
    sessions = Sessions(
        database,
        access_tokens,
        RefreshTokenCodec(keyring.derive("refresh-token")),
        settings.sessions,
        settings.tokens,
        clock,
        listener.is_fresh,
    )
    policies = policies_from(settings.rate_limits.all_policies())
    limiter = RateLimiter(database, policies, settings.rate_limits.rejected_cache_size)
    api_key_validation = ApiKeyValidation(
        database,
        limiter,
        access_tokens.permissions_of,
        settings.api_keys,
        clock,
        listener.is_fresh,
    )
    guard = BruteForce(database, settings.brute_force, keyring)
    policy = PasswordPolicy(settings.passwords.preset)
    outbox = Outbox(keyring, settings.delivery.abandon_after, clock)
    codes = OneTimeCodes(keyring, settings.codes, clock)
    code_limits = CodeLimits(database, settings.codes, settings.brute_force, keyring)
    code_requests = CodeRequests(database, codes, outbox, code_limits, clock)
    accounts = Accounts(database, hasher, policy, sessions, guard, code_requests, clock)
    attempts = Attempts(database, guard, clock)
    recent_login = RecentLogin(settings.second_factors.recent_login, clock)
    relying_party = RelyingParty(settings.passkeys)
    passkeys = Passkeys(relying_party, clock)
    totp = Totp(keyring, settings.second_factors.issuer, clock)
    recovery_codes = RecoveryCodes(keyring, clock)
    completion = LoginCompletion(
        sessions,
        SecondFactors(settings.second_factors, totp, passkeys, clock),
        settings.codes,
        clock,
    )
    code_use_cases = CodeUseCases(
        code_requests,
        EmailVerification(database, codes, attempts, clock),
        CodeLogin(database, codes, attempts, completion, clock),
        PasswordRecovery(database, codes, attempts, hasher, policy, sessions, outbox, clock),
    )
    changes = FactorChanges(outbox, clock)
    proofs = FactorProofs(totp, recovery_codes, passkeys, changes, outbox, clock)
    factor_settings = settings.second_factors
    factors = FactorUseCases(
        MfaVerification(database, factor_settings, attempts, completion, proofs, clock),
        Factors(database, factor_settings, recent_login, recovery_codes, changes, outbox, clock),
        TotpEnrollments(
            database, factor_settings, recent_login, attempts, totp, recovery_codes, changes
        ),
    )
    accounts_of_passkeys, max_factors = AccountHashes(keyring), factor_settings.max_per_user
    passkey_use_cases = PasskeyUseCases(
        BeginPasskeyLogin(database, relying_party, accounts_of_passkeys, guard, clock),
        LoginWithPasskey(database, passkeys, accounts_of_passkeys, attempts, completion, clock),
        BeginPasskeyRegistration(database, relying_party, recent_login, max_factors, clock),
        FinishPasskeyRegistration(
            database, relying_party, recent_login, changes, recovery_codes, max_factors, clock
        ),
    )
    validation = TokenValidation(access_tokens, sessions)
    states = OAuthStates(database, keyring, settings.oauth.state_lifetime, clock)
    providers = _providers(settings.oauth, http, clock)
    identities = Identities(database, recent_login, outbox, clock)
    arrival = OwnerArrival(sessions, clock)
    oauth = OAuthUseCases(
        OAuthStart(states, providers, settings.oauth, guard, validation, recent_login),
        OAuthLogin(database, states, providers, attempts, completion, identities, arrival, clock),
        identities,
    )
    return Core(
        database=database,
        keys=keys,
        sessions=sessions,
        limiter=limiter,
        accounts=accounts,
        code_limits=code_limits,
        codes=code_use_cases,
        email_change=EmailChange(
            database, codes, code_limits, attempts, outbox, recent_login, clock
        ),
        login=PasswordLogin(database, hasher, attempts, completion),
        passkeys=passkeys,
        passkey_use_cases=passkey_use_cases,
        factors=factors,
        oauth=oauth,
        recovery_codes=recovery_codes,
        attempts=attempts,
        completion=completion,
        keyring=keyring,
        outbox=outbox,
        messages=StoredMessages(database, keyring, settings.delivery.abandon_after, clock),
        recent_login=recent_login,
        password_change=PasswordChange(
            database, hasher, policy, attempts, recent_login, sessions, outbox, clock
        ),
        account_data=AccountData(database, recent_login, clock),
        account_deletion=AccountDeletion(database, recent_login, outbox, clock, on_event),
        validation=validation,
        service_tokens=ServiceTokens(database, access_tokens, validation, settings.tokens, clock),
        api_keys=ApiKeys(
            database,
            outbox,
            limiter,
            recent_login,
            settings.api_keys,
            clock,
            api_key_validation.forget,
        ),
        api_key_validation=api_key_validation,
        listener=listener,
        hasher=hasher,
        guard=guard,
        user_import=UserImport(database, hasher, settings.imports, clock),
        user_export=UserExport(database, clock),
    )


def _providers(settings: OAuthSettings, http: aiohttp.ClientSession, clock: Clock) -> Providers:
    def make(provider: ProviderSettings) -> Provider:
        client = JsonClient(
            http,
            timeout=settings.timeout.total_seconds(),
            max_bytes=settings.max_answer_bytes,
            ca_file=provider.ca_file,
        )
        if provider.kind == "github":
            return GitHub(provider, client)
        return OpenIdConnect(provider, client, clock)

    made = {name: make(provider) for name, provider in settings.providers.items()}
    return Providers(made, settings.timeout)


def open_deliverer(
    core: Core, settings: Settings, clock: Clock, count: Callable[[str], object]
) -> Deliverer:
    """Return what delivers messages, woken when some are written; `count` is told of outcomes.

    Raises:
        ConfigError: A template or something else that `delivery` names can't be used.
    """
    post = open_post(settings.delivery, clock)
    deliverer = Deliverer(core.database, core.keyring, post, settings.delivery, clock, count)
    core.listener.also_hear(CHANNEL, deliverer.wake)
    return deliverer


def handlers(core: Core) -> list[object]:
    """Return the handlers of every service, on these use cases."""
    return [
        AuthHandler(
            AuthUseCases(
                login=core.login,
                accounts=core.accounts,
                sessions=core.sessions,
                tokens=core.validation,
                service_tokens=core.service_tokens,
                api_keys=core.api_key_validation,
                keys=core.keys,
                codes=core.codes,
                passkeys=core.passkey_use_cases,
                factors=core.factors,
                oauth=core.oauth,
            )
        ),
        AccountHandler(
            AccountUseCases(
                accounts=core.accounts,
                api_keys=core.api_keys,
                email_change=core.email_change,
                passkeys=core.passkey_use_cases,
                factors=core.factors,
                oauth=core.oauth,
                password_change=core.password_change,
                account_data=core.account_data,
                account_deletion=core.account_deletion,
            )
        ),
        SessionHandler(core.sessions),
        RateLimitHandler(core.limiter),
        AdminHandler(core.user_import),
    ]
