"""Accounts built of real parts, with hashes cheap enough to try hundreds of passwords."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import SecretStr

from authsvc.config import (
    BruteForceSettings,
    CodeSettings,
    KeySettings,
    PasskeySettings,
    PasswordSettings,
    PolicySettings,
    SecondFactorSettings,
    SessionSettings,
    TokenSettings,
)
from authsvc.core.accounts.accounts import Accounts, Registration
from authsvc.core.attempts.attempts import Attempts
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.codes.one_time_codes import OneTimeCodes
from authsvc.core.codes.requests import CodeLimits, CodeRequests
from authsvc.core.factors.challenges import SecondFactors
from authsvc.core.factors.passkeys import Passkeys
from authsvc.core.factors.relying_party import RelyingParty
from authsvc.core.factors.totp import Totp
from authsvc.core.lib.sealing import Keyring
from authsvc.core.login.completion import LoginCompletion
from authsvc.core.login.password import PasswordLogin
from authsvc.core.messages.outbox import Outbox
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, Verification
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.sessions import Sessions
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import ServiceError
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.models.tokens import Tokens
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

CALL = Call("request-1", "spiffe://authsvc.dev/app")
CLI = Call("request-2", "cli")
EMAIL = "Ada@Example.Test"
PASSWORD = "Analytical-Engine-1843"
WRONG = "Difference-Engine-1822"
IP = "192.0.2.1"
OTHER_IP = "198.51.100.7"


def key(key_id: str) -> KeySettings:
    """Return the key of this name, always the same."""
    secret = base64.b64encode(key_id.encode().ljust(32, b"."))
    return KeySettings(id=key_id, key=SecretStr(secret.decode()))


KEYRING = Keyring([key("k1")])
PEPPERS = (key("p1"),)


def cheap_passwords(**changes: int) -> PasswordSettings:
    """Return settings below the floor that the service holds to: a copy is not checked."""
    cheap = {
        "argon2_memory_kib": 64,
        "argon2_time_cost": 1,
        "hash_workers": 2,
        "hash_queue": 1_000,
    }
    return PasswordSettings().model_copy(update=cheap | changes)


_STARTS = ("registrations", "passkey_logins", "oauth_logins")


def unlimited(**changes: object) -> BruteForceSettings:
    """Return limits that no test reaches, but for the consecutive failures."""
    plenty = PolicySettings.model_validate({"requests": 1_000_000, "window": "1s"})
    names = ("per_account", "per_account_and_ip", "per_ip", "per_known_device")
    return BruteForceSettings.model_validate(
        dict.fromkeys((*names, *(f"{what}_per_ip" for what in _STARTS)), plenty)
        | {"registrations_per_address": plenty, "api_keys_per_user": plenty}
        | changes
    )


async def _nothing() -> None:
    """Let nothing happen."""


class CountingHasher(PasswordHasher):
    """The real hasher, which counts, and lets a test happen before and after its work.

    `compared` counts the passwords that were compared with one that an account has.
    """

    compared = 0

    def __init__(self, settings: PasswordSettings, peppers: Sequence[KeySettings]) -> None:
        super().__init__(settings, peppers)
        self.before: Callable[[], Awaitable[object]] = _nothing
        self.after_verify: Callable[[], Awaitable[object]] = _nothing

    async def hash(self, password: str) -> PasswordHash:
        await self.before()
        return await super().hash(password)

    async def verify(self, stored: PasswordHash | None, password: str) -> Verification:
        await self.before()
        self.compared += stored is not None
        verification = await super().verify(stored, password)
        await self.after_verify()
        return verification


@dataclass
class Service:
    """Accounts and what they are made of: one replica on `database`."""

    database: Database
    clock: FakeClock
    limits: BruteForceSettings = field(default_factory=BruteForceSettings)
    passwords: PasswordSettings = field(default_factory=cheap_passwords)
    peppers: Sequence[KeySettings] = PEPPERS
    code_settings: CodeSettings = field(default_factory=CodeSettings)
    factor_settings: SecondFactorSettings = field(default_factory=SecondFactorSettings)

    async def start(self) -> "Service":
        """Build the accounts; the hasher is the test's to close."""
        tokens = TokenSettings()
        keys = SigningKeys(self.database, KEYRING, tokens, self.clock)
        await keys.load()
        self.access_tokens = AccessTokens(keys, tokens, {"user": ("read",)}, self.clock)
        self.sessions = Sessions(
            self.database,
            self.access_tokens,
            RefreshTokenCodec(KEYRING.derive("refresh-token")),
            SessionSettings(max_per_user=1_000),
            tokens,
            self.clock,
            lambda: True,
        )
        self.hasher = CountingHasher(self.passwords, self.peppers)
        brute_force = BruteForce(self.database, self.limits, KEYRING)
        self.outbox = Outbox(KEYRING, timedelta(hours=24), self.clock)
        self.codes = OneTimeCodes(KEYRING, self.code_settings, self.clock)
        self.code_limits = CodeLimits(self.database, self.code_settings, self.limits, KEYRING)
        self.code_requests = CodeRequests(
            self.database, self.codes, self.outbox, self.code_limits, self.clock
        )
        self.policy = PasswordPolicy("standard")
        self.accounts = Accounts(
            self.database,
            self.hasher,
            self.policy,
            self.sessions,
            brute_force,
            self.code_requests,
            self.clock,
        )
        self.attempts = Attempts(self.database, brute_force, self.clock)
        self.totp = Totp(KEYRING, "authsvc", self.clock)
        self.passkeys = Passkeys(RelyingParty(PasskeySettings()), self.clock)
        second_factors = SecondFactors(self.factor_settings, self.totp, self.passkeys, self.clock)
        self.completion = LoginCompletion(
            self.sessions, second_factors, self.code_settings, self.clock
        )
        self.password_login = PasswordLogin(
            self.database, self.hasher, self.attempts, self.completion
        )
        return self

    async def register(self, email: str = EMAIL, password: str = PASSWORD) -> UserId:
        """Make an account from nowhere in particular."""
        return (await self.accounts.register(CALL, Registration(email, password))).user_id

    async def login(
        self, password: str = PASSWORD, *, email: str = EMAIL, ip: str | None = IP, device: str = ""
    ) -> str:
        """Log in and return "OK" or the reason of the failure."""
        try:
            await self.log_in(CALL, email, password, ClientContext(ip, "Test", device))
        except ServiceError as error:
            return error.reason.value
        return "OK"

    async def log_in(self, call: Call, email: str, password: str, client: ClientContext) -> Tokens:
        """Log in a user without a second factor."""
        outcome = await self.password_login.login(call, email, password, client)
        assert isinstance(outcome, Tokens)
        return outcome
