"""Owns the composition: settings in, use cases and handlers out; only here do parts meet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from authsvc.config import Settings
from authsvc.core.access_tokens import AccessTokens
from authsvc.core.accounts import Accounts
from authsvc.core.attempts import Attempts
from authsvc.core.brute_force import BruteForce
from authsvc.core.clock import SystemClock
from authsvc.core.hashing import PasswordHasher
from authsvc.core.login import PasswordLogin
from authsvc.core.login_completion import LoginCompletion
from authsvc.core.outbox import Outbox
from authsvc.core.passwords import PasswordPolicy
from authsvc.core.rate_limits import RateLimiter, policies_from
from authsvc.core.recent_login import RecentLogin
from authsvc.core.refresh_tokens import RefreshTokenCodec
from authsvc.core.revocations import Revocation, RevocationListener
from authsvc.core.sealing import Keyring
from authsvc.core.sessions import Sessions
from authsvc.core.signing_keys import SigningKeys
from authsvc.core.tokens import TokenValidation
from authsvc.models import Clock
from authsvc.rpc.account_service import AccountHandler
from authsvc.rpc.auth_service import AuthHandler
from authsvc.rpc.rate_limit_service import RateLimitHandler
from authsvc.rpc.session_service import SessionHandler
from authsvc.rpc.use_cases import AccountUseCases, AuthUseCases
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
    login: PasswordLogin
    attempts: Attempts
    completion: LoginCompletion
    keyring: Keyring
    outbox: Outbox
    recent_login: RecentLogin
    validation: TokenValidation
    listener: RevocationListener
    hasher: PasswordHasher
    guard: BruteForce


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
        yield _compose(settings, clock, database, hasher)
    finally:
        hasher.close()
        await database.close()


def _compose(settings: Settings, clock: Clock, database: Database, hasher: PasswordHasher) -> Core:
    keyring = Keyring(settings.secrets.keyring)

    # Caches are told of revocations, and ask whether these are heard: a circle, closed here.
    def on_event(event: Revocation) -> None:
        sessions.on_revocation(event)
        keys.on_revocation(event)

    def on_gap() -> None:
        sessions.on_gap()
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
    guard = BruteForce(database, settings.brute_force, keyring)
    accounts = Accounts(
        database,
        hasher,
        PasswordPolicy(settings.passwords.preset),
        sessions,
        guard,
        clock,
    )
    outbox = Outbox(keyring, settings.delivery.abandon_after, clock)
    attempts = Attempts(database, guard, clock)
    completion = LoginCompletion(sessions, settings.codes, clock)
    return Core(
        database=database,
        keys=keys,
        sessions=sessions,
        limiter=RateLimiter(database, policies, settings.rate_limits.rejected_cache_size),
        accounts=accounts,
        login=PasswordLogin(database, hasher, attempts, completion),
        attempts=attempts,
        completion=completion,
        keyring=keyring,
        outbox=outbox,
        recent_login=RecentLogin(settings.second_factors.recent_login, clock),
        validation=TokenValidation(access_tokens, sessions),
        listener=listener,
        hasher=hasher,
        guard=guard,
    )


def handlers(core: Core) -> list[object]:
    """Return the handlers of every service, on these use cases."""
    return [
        AuthHandler(
            AuthUseCases(
                login=core.login,
                accounts=core.accounts,
                sessions=core.sessions,
                tokens=core.validation,
                keys=core.keys,
            )
        ),
        AccountHandler(AccountUseCases(accounts=core.accounts)),
        SessionHandler(core.sessions),
        RateLimitHandler(core.limiter),
    ]
