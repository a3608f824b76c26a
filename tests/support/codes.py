"""A fixture for one-time codes: an account, everything codes are used for, and its mailbox."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest_asyncio

from authsvc.config import CodeSettings, PolicySettings
from authsvc.core.accounts.accounts import Registration
from authsvc.core.accounts.email_verification import EmailVerification
from authsvc.core.accounts.owner_proofs import (
    AccessToken,
    OwnerProof,
    OwnerProofs,
    Password,
    RegistrationToken,
)
from authsvc.core.accounts.password_reset import PasswordReset
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.codes.email_change import EmailChange
from authsvc.core.codes.one_time_codes import IssuedCode, Purpose
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.codes.redemption import CodeProofs
from authsvc.core.lib.slices import Slices
from authsvc.core.login.code import CodeLogin
from authsvc.core.messages.outbox import Message, MessageKind, unseal
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.tokens.validation import TokenValidation
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.factors import LoginOutcome
from authsvc.models.ids import UserId
from authsvc.models.messages import Delivery
from authsvc.models.tokens import Claims
from authsvc.models.users import User
from authsvc.store import users
from authsvc.store.postgres.database import Database
from tests.support.accounts import (
    CALL,
    EMAIL,
    IP,
    KEYRING,
    PASSWORD,
    Service,
    cheap_passwords,
    unlimited,
)
from tests.support.clock import FakeClock
from tests.support.probe import CLAIMS

NEW_EMAIL = "Countess@Example.Test"
NEW_PASSWORD = "Sketch-Of-The-Engine-1842"
REFUSED = "CODE_INVALID"
WRONG_CODE = "wrong"
OTHER = "bob@example.test"
CLIENT = ClientContext(IP, "Test", "")
_PLENTY = PolicySettings.model_validate({"requests": 1_000_000, "window": "1s"})


# Proofs of having set an account's password.
PROOFS = ("registration token", "access token", "password")
_API_KEY = """
INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, create_time, expire_time)
VALUES ($1, $1, 'k', 'authsvc_x', uuid_send($1), '{read}', $2, $2)
"""


def unlimited_codes(**changes: object) -> CodeSettings:
    """Return request limits that no test reaches; the limits of each code are the defaults."""
    plenty = {"requests_per_address": _PLENTY, "requests_per_ip": _PLENTY, "resend_interval": "0s"}
    return CodeSettings.model_validate(plenty | changes)


async def outcome(work: Awaitable[object]) -> str:
    """Return "OK" or the reason of the failure."""
    try:
        await work
    except ServiceError as error:
        return error.reason.value
    return "OK"


async def outcomes(works: Iterable[Awaitable[object]]) -> Counter[str]:
    """Make all calls at once; return how often each outcome occurred."""
    return Counter(await asyncio.gather(*map(outcome, works)))


class Coded:
    """One replica's codes, on its accounts."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.database, self.clock = service.database, service.clock
        reclaim = AccountReclaim(service.sessions.ending, self.clock)
        self.tokens = TokenValidation(
            access_tokens=service.access_tokens,
            sessions=service.sessions.validation,
            permissions=service.permissions,
            revocations=KnownRevocations(),
            slices=Slices(),
        )
        self.verification = EmailVerification(
            database=self.database,
            codes=service.codes,
            requests=service.code_requests,
            attempts=service.attempts,
            reclaim=reclaim,
            proofs=OwnerProofs(service.registration_tokens, self.tokens, service.hasher),
            clock=self.clock,
        )
        proofs = CodeProofs(service.codes, reclaim, self.clock)
        self.code_login = CodeLogin(
            database=self.database,
            codes=service.codes,
            proofs=proofs,
            attempts=service.attempts,
            completion=service.completion,
        )
        self.recovery = PasswordReset(
            database=self.database,
            proofs=proofs,
            attempts=service.attempts,
            hasher=service.hasher,
            acceptance=service.acceptance,
            sessions=service.sessions.ending,
            outbox=service.outbox,
            clock=self.clock,
        )
        self.email_change = EmailChange(
            database=self.database,
            codes=service.codes,
            limits=service.code_limits,
            attempts=service.attempts,
            outbox=service.outbox,
            recent_login=RecentLogin(timedelta(minutes=10), self.clock),
            clock=self.clock,
        )

    async def request(
        self,
        purpose: Purpose,
        email: str = EMAIL,
        delivery: Delivery = Delivery.RETURN,
        client: ClientContext = CLIENT,
    ) -> IssuedCode:
        """Request a code without a login."""
        return await self.service.code_requests.request(CALL, purpose, email, delivery, client)

    async def verify(
        self,
        code: str,
        email: str = EMAIL,
        client: ClientContext = CLIENT,
        proof: OwnerProof | None = None,
    ) -> bool:
        """Verify an address; return whether what was set before was removed."""
        removed = await self.verification.verify(CALL, email, code, client, proof)
        return removed is not None

    async def log_in(
        self, challenge_id: UUID, code: str, client: ClientContext = CLIENT
    ) -> LoginOutcome:
        return await self.code_login.log_in(CALL, challenge_id, code, client)

    async def reset(
        self,
        code: str,
        email: str = EMAIL,
        password: str = NEW_PASSWORD,
        client: ClientContext = CLIENT,
    ) -> None:
        await self.recovery.reset(CALL, email, code, password, client)

    async def request_change(
        self, user_id: UserId, email: str = NEW_EMAIL, delivery: Delivery = Delivery.RETURN
    ) -> IssuedCode:
        claims = self.claims(user_id)
        return await self.email_change.request(CALL, claims, email, delivery, CLIENT)

    async def confirm_change(self, user_id: UserId, code: str, email: str = NEW_EMAIL) -> User:
        return await self.email_change.confirm(CALL, self.claims(user_id), email, code, CLIENT)

    async def use(self, purpose: Purpose, issued: IssuedCode) -> None:
        """Use a code of the registered account for its purpose."""
        match purpose:
            case Purpose.VERIFY_EMAIL:
                await self.verify(issued.code, proof=Password(PASSWORD))
            case Purpose.LOGIN:
                await self.log_in(issued.code_id, issued.code)
            case Purpose.RESET_PASSWORD:
                await self.reset(issued.code)
            case Purpose.CHANGE_EMAIL:
                await self.confirm_change(await self.user_id(), issued.code)

    async def issue(self, purpose: Purpose) -> IssuedCode:
        """Request a code for the registered account."""
        if purpose is Purpose.CHANGE_EMAIL:
            return await self.request_change(await self.user_id())
        return await self.request(purpose)

    def claims(self, user_id: UserId) -> Claims:
        """Return the claims of an access token from a login just now."""
        return replace(CLAIMS, subject=user_id, authentication_time=self.clock.now())

    async def user_id(self, email: str = EMAIL) -> UserId:
        found = await self.fetchval(
            "SELECT user_id FROM users WHERE email_canonical = $1", email.lower()
        )
        return UserId(found)

    async def user(self, email: str = EMAIL) -> User:
        async with self.database.connection() as connection:
            user = await users.get(connection, await self.user_id(email))
        assert user is not None
        return user

    async def prove_address(self) -> None:
        """Mark the addresses of all accounts as verified some time ago."""
        await self.fetch("UPDATE users SET email_verify_time = create_time")

    async def mailbox(self, *kinds: MessageKind) -> list[Message]:
        """Return the undelivered messages, of some kinds or all, oldest first."""
        rows = await self.fetch("SELECT * FROM outbox WHERE state = 'pending' ORDER BY message_id")
        messages = []
        for row in rows:
            kind = MessageKind(row["kind"])
            if not kinds or kind in kinds:
                user_id = UserId(row["user_id"]) if row["user_id"] else None
                sealed = row["sealed_content"]
                messages.append(unseal(KEYRING, row["message_id"], kind, user_id, sealed))
        return messages

    async def written(self) -> Counter[str]:
        """Return how many messages of each kind were enqueued, including decoys."""
        rows = await self.fetch("SELECT kind FROM outbox")
        return Counter(row["kind"] for row in rows)

    async def events(self) -> Counter[str]:
        """Return how often each type of event was recorded."""
        rows = await self.fetch("SELECT type FROM audit_events")
        return Counter(row["type"] for row in rows)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.database.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(query, *arguments)


async def start_coded(
    database: Database, clock: FakeClock, settings: CodeSettings | None = None
) -> Coded:
    """Build a replica without limits except those of each code; the test closes the hasher."""
    service = await Service(
        database,
        clock,
        limits=unlimited(),
        passwords=cheap_passwords(),
        code_settings=settings or unlimited_codes(),
    ).start()
    return Coded(service)


@pytest_asyncio.fixture
async def coded(database: Database, clock: FakeClock) -> Any:
    """Codes without limits except their own, with one account."""
    made = await start_coded(database, clock)
    await made.service.register()
    yield made
    made.service.hasher.close()


async def registered(coded: Coded, email: str = OTHER) -> tuple[str, str, str]:
    """Register and log in; return the code, the registration token and an access token."""
    registration = Registration(email, PASSWORD, "Bob", delivery=Delivery.RETURN)
    made = await coded.service.accounts.register(CALL, registration)
    tokens = await coded.service.log_in(CALL, email, PASSWORD, replace(CLIENT, device_id="x"))
    async with coded.database.connection() as connection:
        await connection.execute(_API_KEY, made.user_id, coded.clock.now())
    return made.code, made.token, tokens.access_token


def proof_of(kind: str, token: str, access_token: str) -> OwnerProof:
    proofs: dict[str, OwnerProof] = {
        "registration token": RegistrationToken(token),
        "access token": AccessToken(access_token),
        "password": Password(PASSWORD),
    }
    return proofs[kind]
