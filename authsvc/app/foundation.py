"""Owns what all use cases stand on: database, keys, tokens, sessions, limits, the outbox."""

from dataclasses import dataclass

from authsvc.config import Settings
from authsvc.core.api_keys.validation import ApiKeyValidation
from authsvc.core.attempts.attempts import Attempts
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.lib.sealing import Keyring
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.messages.outbox import Outbox
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.core.revocations.listener import Revocation, RevocationListener
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.sessions import Sessions
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.core.tokens.validation import TokenValidation
from authsvc.models.clock import Clock
from authsvc.store.postgres.database import Database


@dataclass(frozen=True, slots=True)
class Foundation:
    """What more than one way in needs."""

    settings: Settings
    clock: Clock
    database: Database
    hasher: PasswordHasher
    keyring: Keyring
    listener: RevocationListener
    keys: SigningKeys
    access_tokens: AccessTokens
    sessions: Sessions
    validation: TokenValidation
    limiter: RateLimiter
    api_key_validation: ApiKeyValidation
    brute_force: BruteForce
    attempts: Attempts
    policy: PasswordPolicy
    recent_login: RecentLogin
    outbox: Outbox

    def on_revocation(self, revocation: Revocation) -> None:
        """Drop from all caches what was revoked."""
        self.sessions.on_revocation(revocation)
        self.api_key_validation.on_revocation(revocation)
        self.keys.on_revocation(revocation)

    def on_gap(self) -> None:
        """Drop everything from all caches: revocations may have been missed."""
        self.sessions.on_gap()
        self.api_key_validation.on_gap()
        self.keys.on_gap()


def lay(settings: Settings, clock: Clock, database: Database, hasher: PasswordHasher) -> Foundation:
    """Return the foundation on an open database."""
    keyring = Keyring(settings.secrets.keyring)

    # Caches are told of revocations, and ask whether these are heard: a circle, closed here.
    def on_revocation(revocation: Revocation) -> None:
        foundation.on_revocation(revocation)

    def on_gap() -> None:
        foundation.on_gap()

    listener = RevocationListener(
        settings.database, settings.sessions.cache_staleness, on_revocation, on_gap
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
    granted, is_fresh = access_tokens.permissions_of, listener.is_fresh
    brute_force = BruteForce(database, settings.brute_force, keyring)
    foundation = Foundation(
        settings=settings,
        clock=clock,
        database=database,
        hasher=hasher,
        keyring=keyring,
        listener=listener,
        keys=keys,
        access_tokens=access_tokens,
        sessions=sessions,
        validation=TokenValidation(access_tokens, sessions),
        limiter=limiter,
        api_key_validation=ApiKeyValidation(
            database, limiter, granted, settings.api_keys, clock, is_fresh
        ),
        brute_force=brute_force,
        attempts=Attempts(database, brute_force, clock),
        policy=PasswordPolicy(settings.passwords.preset),
        recent_login=RecentLogin(settings.second_factors.recent_login, clock),
        outbox=Outbox(keyring, settings.delivery.abandon_after, clock),
    )
    return foundation
