"""Accounts built from real parts, with hashes cheap enough to try hundreds of passwords."""

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
from authsvc.core.accounts.registration_tokens import RegistrationTokens
from authsvc.core.attempts.attempts import Attempts
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.audit.request_receipts import RequestReceipts
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
from authsvc.core.passwords.acceptance import PasswordAcceptance
from authsvc.core.passwords.hashing import PasswordHash, PasswordHasher, Verification
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.core.roles.permissions import Permissions
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import ServiceError
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.models.tokens import Tokens
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.sessions import build_sessions

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
    """Return settings below the service's minimum, as a copy is not checked."""
    cheap = {
        "argon2_memory_kib": 64,
        "argon2_time_cost": 1,
        "hash_workers": 2,
        "hash_queue": 1_000,
    }
    return PasswordSettings().model_copy(update=cheap | changes)


_STARTS = ("registrations", "passkey_logins", "oauth_logins")


def unlimited(**changes: object) -> BruteForceSettings:
    """Return limits that no test reaches, except that on consecutive failures."""
    plenty = PolicySettings.model_validate({"requests": 1_000_000, "window": "1s"})
    names = ("per_account", "per_account_and_ip", "per_ip", "per_known_device", "proofs_per_ip")
    return BruteForceSettings.model_validate(
        dict.fromkeys((*names, *(f"{what}_per_ip" for what in _STARTS)), plenty)
        | {"registrations_per_address": plenty, "api_keys_per_user": plenty}
        | {"session_keys_per_user": plenty, "turn_credentials_per_user": plenty}
        | changes
    )


async def _nothing() -> None:
    """Do nothing."""


class CountingHasher(PasswordHasher):
    """The real hasher, which counts, and runs a test's hooks before and after its work.

    `compared` counts the passwords that were compared with an account's.
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
    """Accounts and their parts: one replica on `database`."""

    database: Database
    clock: FakeClock
    limits: BruteForceSettings = field(default_factory=BruteForceSettings)
    passwords: PasswordSettings = field(default_factory=cheap_passwords)
    peppers: Sequence[KeySettings] = PEPPERS
    code_settings: CodeSettings = field(default_factory=CodeSettings)
    factor_settings: SecondFactorSettings = field(default_factory=SecondFactorSettings)

    async def start(self) -> "Service":
        """Build the accounts; the test closes the hasher."""
        tokens = TokenSettings()
        keys = SigningKeys(
            database=self.database, keyring=KEYRING, settings=tokens, clock=self.clock
        )
        await keys.load()
        self.permissions = Permissions({"user": ("read",)}, self.factor_settings.required_for_roles)
        self.access_tokens = AccessTokens(
            keys=keys,
            settings=tokens,
            permissions=self.permissions,
            clock=self.clock,
        )
        self.sessions = build_sessions(
            self.access_tokens,
            self.database,
            self.clock,
            ring=KEYRING,
            settings=SessionSettings(max_per_user=1_000),
            tokens=tokens,
            permissions=self.permissions,
        )
        self.hasher = CountingHasher(self.passwords, self.peppers)
        brute_force = BruteForce(self.database, self.limits, KEYRING)
        self.outbox = Outbox(KEYRING, timedelta(hours=24), self.clock)
        self.codes = OneTimeCodes(KEYRING, self.code_settings, self.clock)
        self.code_limits = CodeLimits(
            database=self.database,
            settings=self.code_settings,
            networks=self.limits,
            keyring=KEYRING,
        )
        self.code_requests = CodeRequests(
            database=self.database,
            codes=self.codes,
            outbox=self.outbox,
            limits=self.code_limits,
            clock=self.clock,
        )
        self.policy = PasswordPolicy("standard")
        self.acceptance = PasswordAcceptance(self.policy, self.hasher, None)
        self.registration_tokens = RegistrationTokens(KEYRING, self.clock)
        self.accounts = Accounts(
            database=self.database,
            hasher=self.hasher,
            acceptance=self.acceptance,
            session_ending=self.sessions.ending,
            brute_force=brute_force,
            codes=self.code_requests,
            tokens=self.registration_tokens,
            permissions=Permissions({"user": ("read",), "editor": ("write",)}),
            receipts=RequestReceipts(self.database, KEYRING, self.clock),
            clock=self.clock,
        )
        self.attempts = Attempts(self.database, brute_force, self.clock)
        self.totp = Totp(KEYRING, "authsvc", self.clock)
        self.passkeys = Passkeys(RelyingParty(PasskeySettings()), self.clock)
        second_factors = SecondFactors(
            settings=self.factor_settings,
            permissions=self.permissions,
            totp=self.totp,
            passkeys=self.passkeys,
            clock=self.clock,
        )
        self.completion = LoginCompletion(
            sessions=self.sessions.opening,
            second_factors=second_factors,
            codes=self.code_settings,
            clock=self.clock,
        )
        self.password_login = PasswordLogin(
            database=self.database,
            hasher=self.hasher,
            attempts=self.attempts,
            freezes=LoginFreezes(self.database),
            completion=self.completion,
            clock=self.clock,
        )
        return self

    async def register(self, email: str = EMAIL, password: str = PASSWORD) -> UserId:
        """Create an account, without a particular client."""
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
        outcome = await self.password_login.log_in(call, email, password, client)
        assert isinstance(outcome, Tokens)
        return outcome
