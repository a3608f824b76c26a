"""Owns the construction of shared parts: keys, caches, tokens, sessions, limits, attempts."""

from functools import cached_property

import aiohttp

from authsvc.config import ConfigError, HsmSettings, Settings
from authsvc.core.api_keys.validation import ApiKeyCache, ApiKeyValidation
from authsvc.core.attempts.attempts import Attempts
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.lib.clock import ClockSample, DatabaseClock
from authsvc.core.lib.definitions import Definitions
from authsvc.core.lib.last_use import LastUse
from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.lib.sealing import Keyring
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.block_list import BlockList
from authsvc.core.limits.blocking import IpBlocking
from authsvc.core.limits.limiter import RateLimiter, policies_from
from authsvc.core.limits.policies import Policies
from authsvc.core.limits.screening import Screening
from authsvc.core.limits.violations import Violations
from authsvc.core.messages.outbox import Outbox
from authsvc.core.passwords.acceptance import PasswordAcceptance
from authsvc.core.passwords.breached import BreachedPasswords
from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.revocations.validity import TokenValidity
from authsvc.core.revocations.watching import RevocationWatch
from authsvc.core.roles.permissions import Permissions
from authsvc.core.roles.role_definitions import RoleDefinitions
from authsvc.core.sessions.bulk_ending import BulkSessionEnding
from authsvc.core.sessions.cache import SessionCache
from authsvc.core.sessions.ending import SessionEnding
from authsvc.core.sessions.opening import SessionOpening
from authsvc.core.sessions.reading import SessionReader
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.token_issuing import SessionCookies, TokenIssuer
from authsvc.core.sessions.validation import SessionValidation
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.signer import ExternalSigner, Signer
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.core.tokens.validation import TokenValidation
from authsvc.measures import Histogram
from authsvc.models.clock import Clock
from authsvc.models.ids import ApiKeyId, SessionId
from authsvc.models.revocations import LoggedRevocation, Revocation
from authsvc.outbound.breached_passwords import open_ranges
from authsvc.outbound.proxy import proxy_rules
from authsvc.rpc.session.revocations import encoder
from authsvc.store import api_keys, revocations, sessions
from authsvc.store.doorbell import Channel
from authsvc.store.log_reading import Position
from authsvc.store.postgres.database import Database


def open_hsm(settings: HsmSettings) -> ExternalSigner:
    """Return the HSM of the settings, which is reached when it is first needed.

    Raises:
        ConfigError: The package for it is not installed.
    """
    try:
        from authsvc.outbound.hsm import Hsm  # noqa: PLC0415 - an extra, which few install
    except ModuleNotFoundError:
        raise ConfigError(
            ["tokens.pkcs11: the package for HSMs is missing: install authsvc[server,pkcs11]"]
        ) from None
    return Hsm(settings)


class BaseBuild:
    """Builds each part once, when it is first needed.

    A part refers to its dependencies by name, so their order here doesn't matter.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        database: Database,
        hasher: PasswordHasher,
        http: aiohttp.ClientSession,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.database = database
        self.hasher = hasher
        self.http = http

    @cached_property
    def keyring(self) -> Keyring:
        return Keyring(self.settings.secrets.keyring, self.settings.encryption.algorithm)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.keyring, self.settings.delivery.abandon_after, self.clock)

    # Caches and their invalidation

    @cached_property
    def doorbell(self) -> Doorbell:
        return Doorbell(self.database, self.settings.database)

    @cached_property
    def revocation_reader(self) -> LogFollower[LoggedRevocation]:
        reader = LogFollower(
            database=self.database,
            source=revocations.LOG,
            staleness=self.settings.sessions.cache_staleness,
            on_event=self._on_logged,
            on_gap=self._on_gap,
            observe=self._observe_clock,
            on_position=self._on_position,
        )
        self.doorbell.answer(Channel.REVOCATIONS, reader.ring)
        return reader

    @cached_property
    def known_revocations(self) -> KnownRevocations:
        return KnownRevocations()

    def _observe_clock(self, sample: ClockSample) -> None:
        if isinstance(self.clock, DatabaseClock):
            self.clock.observe(sample)

    @cached_property
    def revocation_watch(self) -> RevocationWatch:
        return RevocationWatch(
            database=self.database,
            clock=self.clock,
            validity=lambda: self.token_validity.longest,
            encode=encoder(self.slices),
            ring=self._ring_reader,
        )

    @cached_property
    def token_validity(self) -> TokenValidity:
        return TokenValidity(
            database=self.database,
            clock=self.clock,
            own=self.settings.tokens.revocation_validity,
        )

    def _ring_reader(self) -> None:
        self.revocation_reader.ring()

    @cached_property
    def revocation_delays(self) -> Histogram:
        return Histogram()

    def _on_logged(self, revocation: LoggedRevocation) -> None:
        self.on_revocation(revocation)
        self.revocation_watch.on_revocation(revocation)
        delay = self.clock.now() - revocation.revoke_time
        self.revocation_delays.record(delay.total_seconds())

    def _on_position(self, position: Position, began: float) -> None:
        self.known_revocations.advance(position)
        self.revocation_watch.on_position(position, began)

    def on_revocation(self, revocation: Revocation) -> None:
        """Drop what was revoked from all caches."""
        self.session_cache.on_revocation(revocation)
        self.api_key_cache.on_revocation(revocation)
        self.signing_keys.on_revocation(revocation)

    def _on_gap(self) -> None:
        """Drop everything from all caches: revocations may have been missed."""
        self.session_cache.drop_all()
        self.api_key_cache.drop_all()
        self.signing_keys.on_gap()
        self.revocation_watch.on_gap()

    @cached_property
    def session_cache(self) -> SessionCache:
        return SessionCache(self.settings.sessions.cache_size)

    @cached_property
    def api_key_cache(self) -> ApiKeyCache:
        return ApiKeyCache(self.settings.api_keys.cache_size)

    @cached_property
    def definitions(self) -> Definitions:
        definitions = Definitions(self.database, self.settings.sessions.cache_staleness)
        self.doorbell.answer(Channel.DEFINITIONS, definitions.ring)
        return definitions

    # Tokens and sessions

    @cached_property
    def signing_keys(self) -> SigningKeys:
        return SigningKeys(
            database=self.database,
            keyring=self.keyring,
            settings=self.settings.tokens,
            clock=self.clock,
            signer=self.signer,
            is_fresh=self.revocation_reader.is_fresh,
        )

    @cached_property
    def signer(self) -> Signer:
        hsm = self.settings.tokens.pkcs11
        if hsm is None:
            return Signer()
        return Signer(open_hsm(hsm), makes_external=self.settings.tokens.signer == "pkcs11")

    @cached_property
    def permissions(self) -> Permissions:
        permissions = Permissions.of_settings(self.settings)
        permissions.follow(self.definitions)
        return permissions

    @cached_property
    def access_tokens(self) -> AccessTokens:
        return AccessTokens(
            keys=self.signing_keys,
            settings=self.settings.tokens,
            permissions=self.permissions,
            clock=self.clock,
        )

    @cached_property
    def slices(self) -> Slices:
        return Slices()

    @cached_property
    def token_validation(self) -> TokenValidation:
        return TokenValidation(
            access_tokens=self.access_tokens,
            sessions=self.session_validation,
            permissions=self.permissions,
            revocations=self.known_revocations,
            slices=self.slices,
        )

    @cached_property
    def refresh_codec(self) -> RefreshTokenCodec:
        return RefreshTokenCodec(self.keyring.derive("refresh-token"))

    @cached_property
    def token_issuer(self) -> TokenIssuer:
        return TokenIssuer(self.access_tokens, self.refresh_codec, self.session_cookies)

    @cached_property
    def session_cookies(self) -> SessionCookies:
        return SessionCookies(self.settings.sessions.cookie, self.clock)

    @cached_property
    def session_opening(self) -> SessionOpening:
        return SessionOpening(
            database=self.database,
            issuer=self.token_issuer,
            settings=self.settings.sessions,
            tokens=self.settings.tokens,
            permissions=self.permissions,
            clock=self.clock,
        )

    @cached_property
    def session_last_use(self) -> LastUse[SessionId]:
        return LastUse(self.database, sessions.touch, self.settings.sessions.last_use_interval)

    @cached_property
    def session_validation(self) -> SessionValidation:
        reader = SessionReader(
            database=self.database,
            cache=self.session_cache,
            settings=self.settings.sessions,
            tokens=self.settings.tokens,
            clock=self.clock,
        )
        return SessionValidation(
            reader=reader,
            cache=self.session_cache,
            last_use=self.session_last_use,
            settings=self.settings.sessions,
            clock=self.clock,
            is_fresh=self.revocation_reader.is_fresh,
            revocations=self.known_revocations,
            slices=self.slices,
        )

    @cached_property
    def session_ending(self) -> SessionEnding:
        return SessionEnding(
            database=self.database,
            cache=self.session_cache,
            codec=self.refresh_codec,
            clock=self.clock,
        )

    @cached_property
    def bulk_session_ending(self) -> BulkSessionEnding:
        return BulkSessionEnding(
            database=self.database,
            cache=self.session_cache,
            slices=self.slices,
            clock=self.clock,
        )

    # Limits and attempts

    @cached_property
    def rate_limiter(self) -> RateLimiter:
        limits = self.settings.rate_limits
        policies = policies_from(limits.all_policies())
        return RateLimiter(
            database=self.database,
            policies=policies,
            rejected_cache_size=limits.rejected_cache_size,
        )

    @cached_property
    def policies(self) -> Policies:
        return Policies(
            database=self.database,
            limiter=self.rate_limiter,
            definitions=self.definitions,
            in_settings=policies_from(self.settings.rate_limits.all_policies()),
            clock=self.clock,
        )

    @cached_property
    def role_definitions(self) -> RoleDefinitions:
        return RoleDefinitions(
            database=self.database,
            permissions=self.permissions,
            definitions=self.definitions,
            tokens=self.settings.tokens,
            clock=self.clock,
        )

    @cached_property
    def block_list(self) -> BlockList:
        blocks = BlockList(
            database=self.database,
            allowed=self.settings.blocks.allowed_networks(),
            clock=self.clock,
        )
        self.doorbell.answer(Channel.IP_BLOCKS, blocks.ring)
        return blocks

    @cached_property
    def violations(self) -> Violations:
        return Violations(
            database=self.database,
            blocks=self.block_list,
            settings=self.settings.blocks,
            networks=self.settings.brute_force,
            slices=self.slices,
            clock=self.clock,
        )

    @cached_property
    def screening(self) -> Screening:
        return Screening(
            blocks=self.block_list,
            violations=self.violations,
            limiter=self.rate_limiter,
            networks=self.settings.brute_force,
        )

    @cached_property
    def ip_blocking(self) -> IpBlocking:
        return IpBlocking(
            database=self.database,
            blocks=self.block_list,
            violations=self.violations,
            settings=self.settings.blocks,
            clock=self.clock,
        )

    @cached_property
    def brute_force(self) -> BruteForce:
        return BruteForce(self.database, self.settings.brute_force, self.keyring)

    @cached_property
    def attempts(self) -> Attempts:
        return Attempts(self.database, self.brute_force, self.clock)

    @cached_property
    def login_freezes(self) -> LoginFreezes:
        freezes = LoginFreezes(self.database)
        self.doorbell.answer(Channel.LOGIN_FREEZES, freezes.ring)
        return freezes

    @cached_property
    def recent_login(self) -> RecentLogin:
        return RecentLogin(self.settings.second_factors.recent_login, self.clock)

    @cached_property
    def password_acceptance(self) -> PasswordAcceptance:
        policy = PasswordPolicy(self.settings.passwords.preset)
        return PasswordAcceptance(policy, self.hasher, self.breached_passwords)

    @cached_property
    def breached_passwords(self) -> BreachedPasswords | None:
        settings = self.settings.passwords.breached
        ranges = open_ranges(settings, self.http, proxy_rules(self.settings.outbound))
        return None if ranges is None else BreachedPasswords(ranges, settings, self.clock)

    # API keys

    @cached_property
    def api_key_last_use(self) -> LastUse[ApiKeyId]:
        return LastUse(self.database, api_keys.touch, self.settings.api_keys.last_use_interval)

    @cached_property
    def api_key_validation(self) -> ApiKeyValidation:
        return ApiKeyValidation(
            database=self.database,
            cache=self.api_key_cache,
            last_use=self.api_key_last_use,
            limiter=self.rate_limiter,
            permissions=self.permissions,
            settings=self.settings.api_keys,
            clock=self.clock,
            is_fresh=self.revocation_reader.is_fresh,
            revocations=self.known_revocations,
        )
