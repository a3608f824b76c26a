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

from authsvc.core.lib import base64url
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.jwk import SigningKey
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.postgres import PostgresServer
from tests.support.tokens import PERMISSIONS, load_keys, make_session, token_settings

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
        return self.tokens.verify(token)

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

    async def load() -> SigningKeys:
        database = await Database.open(settings_for(server.dsn(name)))
        keys = await load_keys(database, CLOCK, algorithm=algorithm)
        await database.close()
        return keys

    keys = asyncio.run(load())
    server.drop(name)
    tokens = AccessTokens(
        keys=keys,
        settings=token_settings(algorithm=algorithm),
        permissions=PERMISSIONS,
        clock=CLOCK,
    )
    token, _ = tokens.issue(make_session(CLOCK), CLOCK.now())
    header, payload, _ = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return World(keys, tokens, token, json.loads(header), json.loads(payload))
