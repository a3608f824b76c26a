"""A fixture for logins at external providers: real parts, and a provider that a test controls.

The HTTP side of providers is tested elsewhere; this is for what happens afterwards.
"""

import asyncio
import json
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg
import pytest_asyncio

from authsvc.config import OAuthSettings
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.core.federation.authorization import OAuthStart
from authsvc.core.federation.identities import Identities
from authsvc.core.federation.providers import AuthorizationAnswer, ExternalIdentity, Providers
from authsvc.core.federation.states import OAuthStates
from authsvc.core.lib.slices import Slices
from authsvc.core.login.federated import OAuthLogin, OAuthOutcome
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.tokens.validation import TokenValidation
from authsvc.errors import ServiceError, credentials_invalid
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from authsvc.models.tokens import Tokens
from tests.support.accounts import CALL, IP, KEYRING, Service, unlimited
from tests.support.clock import FakeClock
from tests.support.logins import Replicas

REDIRECT = "http://localhost:8080/callback"
CLIENT = ClientContext(IP, "Browser/1", "phone")
ADA = ExternalIdentity("1815", "ada@example.test", True, "Ada")


class ToldProvider:
    """Knows for whom each code was issued; every code works once."""

    def __init__(self) -> None:
        self.codes: dict[str, ExternalIdentity] = {}
        self.asked: list[tuple[str, str, str]] = []

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str
    ) -> str:
        query = {"nonce": nonce, "challenge": code_challenge, "redirect_uri": redirect_uri}
        return f"https://provider.test/?{urlencode(query | {'state': state})}"

    async def identify(
        self, answer: AuthorizationAnswer, verifier: str, nonce: str, redirect_uri: str
    ) -> ExternalIdentity:
        self.asked.append((verifier, nonce, redirect_uri))
        await asyncio.sleep(0)
        identity = self.codes.pop(answer.code, None)
        if identity is None:
            raise credentials_invalid()
        return identity

    async def check(self) -> None:
        raise NotImplementedError


class Federated:
    """One replica that accepts logins at the providers "github" and "other"."""

    def __init__(self, service: Service, clock: FakeClock) -> None:
        database = service.database
        self.service = service
        self.told = ToldProvider()
        self.settings = OAuthSettings(redirect_uris=(REDIRECT, f"{REDIRECT}?app=2"))
        providers = Providers({"github": self.told, "other": self.told}, timedelta(seconds=60))
        states = OAuthStates(
            database=database, keyring=KEYRING, lifetime=self.settings.state_lifetime, clock=clock
        )
        brute_force = BruteForce(database, service.limits, KEYRING)
        recent_login = RecentLogin(timedelta(minutes=10), clock)
        self.validation = TokenValidation(
            access_tokens=service.access_tokens,
            sessions=service.sessions.validation,
            permissions=service.permissions,
            revocations=KnownRevocations(),
            slices=Slices(),
        )
        self.identities = Identities(
            database=database, recent_login=recent_login, outbox=service.outbox, clock=clock
        )
        self.states = states
        self.start = OAuthStart(
            states=states,
            providers=providers,
            settings=self.settings,
            brute_force=brute_force,
            tokens=self.validation,
            recent_login=recent_login,
        )
        self.login = OAuthLogin(
            database=database,
            states=states,
            providers=providers,
            attempts=service.attempts,
            completion=service.completion,
            linked=self.identities,
            reclaim=AccountReclaim(service.sessions.ending, clock),
            clock=clock,
        )

    async def begin(self, provider: str = "github", *, link: str = "", ip: str | None = IP) -> str:
        """Start a login; return its state."""
        client = replace(CLIENT, ip=ip)
        authorization = await self.start.begin(provider, REDIRECT, client, link)
        (state,) = parse_qs(urlsplit(authorization.url).query)["state"]
        assert state == authorization.state
        return state

    async def complete(self, state: str, identity: ExternalIdentity | None) -> OAuthOutcome:
        """Complete a login; the provider knows the code if there is an identity."""
        code = secrets.token_hex(8)
        if identity is not None:
            self.told.codes[code] = identity
        return await self.login.complete(CALL, state, AuthorizationAnswer(code), CLIENT)

    async def log_in(
        self, identity: ExternalIdentity | None = ADA, provider: str = "github", *, link: str = ""
    ) -> tuple[Tokens, bool]:
        """Log in without a second factor; return also whether it created the account."""
        state = await self.begin(provider, link=link)
        outcome = await self.complete(state, identity)
        assert isinstance(outcome.outcome, Tokens)
        return outcome.outcome, outcome.new_user

    async def tries(
        self, identity: ExternalIdentity | None = ADA, provider: str = "github", *, link: str = ""
    ) -> str:
        """Log in; return "OK", "MFA" or the reason of the failure."""
        try:
            outcome = await self.complete(await self.begin(provider, link=link), identity)
        except ServiceError as error:
            return error.reason.value
        return "MFA" if isinstance(outcome.outcome, MfaChallenge) else "OK"

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Return the result of a statement."""
        async with self.service.database.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def events(self, *types: str) -> list[tuple[str, dict[str, Any]]]:
        """Return type and detail of the audit events, oldest first, of these types if given."""
        rows = await self.fetch("SELECT type, detail FROM audit_events ORDER BY event_id")
        return [
            (row["type"], json.loads(row["detail"]))
            for row in rows
            if (row["type"] in types if types else not row["type"].startswith("key."))
        ]


@pytest_asyncio.fixture
async def federated(replicas: Replicas, clock: FakeClock) -> Federated:
    """A replica without limits and without accounts."""
    return Federated(await replicas.start(unlimited()), clock)
