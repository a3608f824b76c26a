"""Forges access tokens: validly signed with the service's own key, with one thing changed.

So it is the change that is rejected, not the signature.
"""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from authsvc.client.errors import NotDecidable, TokenRejected
from authsvc.client.freshness import elapsed
from authsvc.client.knowledge import Knowledge
from authsvc.client.verification import Expectations, Verification
from authsvc.core.lib import base64url
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.jwk import SigningKey
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims
from authsvc.store.postgres.database import Database
from authsvc.v1.session_service_pb2 import WatchRevocationsResponse
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.postgres import PostgresServer
from tests.support.tokens import load_keys, make_session, tokens_of

CLAIMS = (
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "sid",
    "roles",
    "permissions",
    "scope",
    "amr",
    "auth_time",
)
CLOCK = FakeClock()
NOW = int(CLOCK.now().timestamp())


@dataclass
class World:
    """A replica with its key, and a valid token."""

    keys: SigningKeys
    tokens: AccessTokens
    verification: Verification
    token: str
    header: dict[str, Any]
    payload: dict[str, Any]

    @property
    def key(self) -> SigningKey:
        return self.keys.active

    def forge(self, header: object = None, payload: object = None) -> str:
        """Return a validly signed token; bytes are used as they are, everything else as JSON."""
        parts = [self.header if header is None else header, payload or self.payload]
        raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
        return self.signed(".".join(map(base64url.encode, raw)))

    def signed(self, signing_input: str) -> str:
        return f"{signing_input}.{base64url.encode(self.key.sign(signing_input.encode()))}"

    def with_header(self, **changes: object) -> str:
        return self.forge(header=self.header | changes)

    def with_payload(self, **changes: object) -> str:
        return self.forge(payload=self.payload | changes)

    def verify(self, token: str) -> Claims | ServiceClaims | InactiveReason:
        """Return what the service says of a token, and see that the client says the same.

        Except that the client can't verify symmetric signatures, and asks for the certificate.
        """
        outcome = self.tokens.verify(token)
        if self.key.public_jwk is None:
            return outcome
        if isinstance(outcome, InactiveReason):
            expected = str(outcome)
        else:
            is_bound = bool(outcome.certificate_thumbprint)
            expected = "CERTIFICATE_MISMATCH" if is_bound else str(outcome.subject)
        assert self._client_says(token) == expected
        return outcome

    def _client_says(self, token: str) -> str:
        try:
            return self.verification.judge(token, "authsvc", (), "", None, 1e9).subject
        except (TokenRejected, NotDecidable) as refused:
            return refused.reason

    def theirs(self) -> ECKey | OKPKey | RSAKey | OctKey:
        """Return the service's key as a key of the independent library."""
        secret = self.key._secret
        if isinstance(secret, bytes):
            return OctKey.import_key(secret)
        pem = secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        match self.key.algorithm:
            case "ES256":
                return ECKey.import_key(pem)
            case "EdDSA":
                return OKPKey.import_key(pem)
            case _:
                return RSAKey.import_key(pem)


def open_world(server: PostgresServer, algorithm: str) -> World:
    """Yield a started replica; its database is dropped afterwards."""
    name = server.create()

    async def load() -> tuple[SigningKeys, AccessTokens, str]:
        database = await Database.open(settings_for(server.dsn(name)))
        keys = await load_keys(database, CLOCK, algorithm=algorithm)
        await database.close()
        tokens = tokens_of(keys, CLOCK, algorithm=algorithm)
        token, _ = await tokens.issue(make_session(CLOCK), CLOCK.now())
        return keys, tokens, token

    keys, tokens, token = asyncio.run(load())
    server.drop(name)
    header, payload, _ = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return World(keys, tokens, _client(keys), token, json.loads(header), json.loads(payload))


def _client(keys: SigningKeys) -> Verification:
    """Return a client's verification, with the published keys and nothing revoked."""
    knowledge = Knowledge()
    knowledge.keys.begin(elapsed() + 1e9)  # unknown ids are as if asked for a moment ago
    knowledge.keys.install(keys.jwks(), 3600, elapsed())
    knowledge.known_until.open(elapsed())
    knowledge.receive(WatchRevocationsResponse(complete=True), elapsed())
    expected = Expectations(
        issuer="https://authsvc.dev", audience="authsvc", clock=lambda: CLOCK.now().timestamp()
    )
    return Verification(expected, knowledge, 1000)
