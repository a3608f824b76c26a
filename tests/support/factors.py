"""A fixture for second factors: a user, an authenticator app, and everything that uses it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import pyotp
import pytest_asyncio

from authsvc.config import SecondFactorSettings
from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.factors.changes import FactorChanges
from authsvc.core.factors.own_factors import Factors
from authsvc.core.factors.proofs import FactorProofs, RecoveryCode, SecondFactor, TotpCode
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.signals import PasskeySignalling
from authsvc.core.factors.totp_enrollment import TotpEnrollments
from authsvc.core.login.second_factor import MfaVerification
from authsvc.core.messages.outbox import Outbox
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge, TotpEnrollment
from authsvc.models.ids import FactorId, UserId
from authsvc.models.tokens import Claims, Tokens
from tests.support.accounts import CALL, EMAIL, IP, KEYRING, PASSWORD, Service, unlimited
from tests.support.clock import FakeClock
from tests.support.logins import Replicas
from tests.support.probe import CLAIMS

STEP = 30.0


@dataclass(frozen=True)
class App:
    """An authenticator app, which knows no more than a real one."""

    factor_id: FactorId
    secret: str
    clock: FakeClock

    @classmethod
    def scan(cls, enrollment: TotpEnrollment, clock: FakeClock) -> "App":
        """Scan the URI of an enrollment."""
        read = pyotp.parse_uri(enrollment.otpauth_uri)
        assert read.secret == enrollment.secret
        return cls(enrollment.factor_id, enrollment.secret, clock)

    def code(self, steps: int = 0) -> str:
        """Return the code that it shows now, or some steps before or after."""
        return pyotp.TOTP(self.secret).at(self.clock.now(), counter_offset=steps)

    def wrong(self) -> str:
        """Return a code that it does not show for hours."""
        near = {self.code(steps) for steps in range(-500, 500)}
        return next(code for number in range(10**6) if (code := f"{number:06}") not in near)


class Secured:
    """One replica's second factors, on its accounts."""

    def __init__(self, service: Service, settings: SecondFactorSettings | None = None) -> None:
        self.service = service
        self.clock = service.clock
        settings = settings or service.factor_settings
        database, clock = service.database, service.clock
        self.outbox = Outbox(KEYRING, timedelta(hours=1), clock)
        self.recovery_codes = RecoveryCodes(KEYRING, clock)
        recent = RecentLogin(settings.recent_login, clock)
        changes = FactorChanges(self.outbox, clock)
        proofs = FactorProofs(
            totp=service.totp,
            recovery_codes=self.recovery_codes,
            passkeys=service.passkeys,
            changes=changes,
            outbox=self.outbox,
            clock=clock,
        )
        self.verification = MfaVerification(
            database=database,
            settings=settings,
            attempts=service.attempts,
            completion=service.completion,
            proofs=proofs,
            freezes=LoginFreezes(database),
            clock=clock,
        )
        self.own = Factors(
            database=database,
            permissions=service.permissions,
            recent_login=recent,
            recovery_codes=self.recovery_codes,
            changes=changes,
            signals=PasskeySignalling("localhost"),
            outbox=self.outbox,
            clock=clock,
        )
        self.totp = TotpEnrollments(
            database=database,
            settings=settings,
            recent_login=recent,
            attempts=service.attempts,
            totp=service.totp,
            recovery_codes=self.recovery_codes,
            changes=changes,
        )

    async def user(self, email: str = EMAIL) -> UserId:
        """Return the id of the account with this address; create it, verified, if there is none."""
        query = "SELECT user_id FROM users WHERE email = $1"
        if await self.fetchval(query, email) is None:
            await self.service.register(email)
        found = await self.fetchval(query, email)
        assert isinstance(found, UUID)
        await self.prove(UserId(found))
        return UserId(found)

    async def prove(self, user_id: UserId, *, proved: bool = True) -> None:
        """Mark the user's address as verified, or as unverified."""
        await self.fetchval(
            "UPDATE users SET email_verify_time = CASE WHEN $2 THEN create_time END"
            " WHERE user_id = $1",
            user_id,
            proved,
        )

    def claims(self, user_id: UserId, login: datetime | None = None) -> Claims:
        """Return the claims of a token of the user, who logged in at that time."""
        return replace(CLAIMS, subject=user_id, authentication_time=login or self.clock.now())

    async def enroll(self, user_id: UserId, name: str = "") -> App:
        """Start the enrollment of an app."""
        return App.scan(await self.totp.enroll(self.claims(user_id), name), self.clock)

    async def confirm(self, user_id: UserId, app: App, code: str = "") -> list[str]:
        """Complete the enrollment of an app; return the recovery codes."""
        return await self.totp.confirm(
            CALL, self.claims(user_id), app.factor_id, code or app.code(), ClientContext(IP)
        )

    async def secure(self, user_id: UserId) -> tuple[App, list[str]]:
        """Enroll an app for the user, and advance to an unused code."""
        app = await self.enroll(user_id)
        codes = await self.confirm(user_id, app)
        self.clock.advance(STEP)
        return app, codes

    async def secure_unproved(self, user_id: UserId) -> tuple[App, list[str]]:
        """Do as `secure` for an unverified address, as was possible before that was forbidden."""
        await self.prove(user_id)
        made = await self.secure(user_id)
        await self.prove(user_id, proved=False)
        return made

    async def challenge(self, email: str = EMAIL, device: str = "", ip: str = IP) -> MfaChallenge:
        """Log in by password; the outcome has to be a challenge."""
        client = ClientContext(ip, "Test", device)
        outcome = await self.service.password_login.log_in(CALL, email, PASSWORD, client)
        assert isinstance(outcome, MfaChallenge)
        return outcome

    async def verify(
        self,
        token: str,
        factor: SecondFactor | str,
        *,
        device: str = "",
        ip: str = IP,
        trust: bool = False,
    ) -> Tokens:
        """Give a second factor; text is an app's code."""
        if isinstance(factor, str):
            factor = TotpCode(factor)
        client = ClientContext(ip, "Test", device)
        return await self.verification.verify(CALL, token, factor, client, trust_device=trust)

    async def fetchval(self, query: str, *arguments: object) -> object:
        """Return the one value that a query asks for."""
        async with self.service.database.connection() as connection:
            found: object = await connection.fetchval(query, *arguments)
            return found

    async def failed(self) -> object:
        """Return how many logins failed in a row, if there is one account."""
        return await self.fetchval("SELECT failed_logins FROM users")

    async def notices(self) -> list[str]:
        """Return the messages to users, except those with a code."""
        async with self.service.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT kind FROM outbox WHERE kind <> 'verify_email' ORDER BY message_id"
            )
        return [row["kind"] for row in rows]

    async def events(self, *types: str) -> Counter[str]:
        """Return how often each of these types of audit events was recorded."""
        async with self.service.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT type FROM audit_events WHERE type = any($1)", list(types)
            )
        return Counter(row["type"] for row in rows)


def used(code: str) -> RecoveryCode:
    """Return a recovery code as a factor."""
    return RecoveryCode(code)


async def reason(call: Awaitable[object]) -> str:
    """Return "OK" or the reason of the failure."""
    try:
        await call
    except ServiceError as error:
        return error.reason.value
    return "OK"


async def reasons(calls: Iterable[Awaitable[object]]) -> Counter[str]:
    """Make all calls at once; return how often each outcome occurred."""
    return Counter(await asyncio.gather(*map(reason, calls)))


@pytest_asyncio.fixture
async def secured(free: Service) -> Secured:
    """Second factors without limits except those on challenges and consecutive failures."""
    return Secured(free)


@pytest_asyncio.fixture
async def required(replicas: Replicas) -> Secured:
    """As `secured`, where every user has to have a second factor."""
    settings = SecondFactorSettings(required_for_roles=frozenset({"user"}))
    made = Secured(await replicas.start(unlimited(), factor_settings=settings))
    await made.user()
    return made
