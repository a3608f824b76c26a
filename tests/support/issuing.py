"""Issuing and exchange of tokens built from real parts, and services that request them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from authsvc.core.lib import base64url
from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.signing import token_claims
from authsvc.core.signing.access_tokens import AccessTokens, SignedToken
from authsvc.core.tokens.service_tokens import ServiceTokens
from authsvc.core.tokens.validation import TokenCheck, TokenResult, TokenValidation
from authsvc.models.calls import Caller, Role
from authsvc.models.tokens import Claims, Tokens
from tests.support.sessions import CALL, Replica, World
from tests.support.tokens import PERMISSIONS, token_settings

MINUTE = timedelta(minutes=1)
SHOP = Caller(
    identity="spiffe://authsvc.test/shop",
    roles=frozenset({Role.APP}),
    thumbprint=b"s" * 32,
    audiences=frozenset({"billing", "ledger"}),
    scopes=frozenset({"invoices.read", "invoices.write"}),
)
BILLING = replace(
    SHOP, identity="dns:billing.test", thumbprint=b"b" * 32, audiences=frozenset({"ledger"})
)
NOBODY = replace(SHOP, audiences=frozenset(), scopes=frozenset())


class Issuing:
    """One replica that issues, exchanges and validates."""

    def __init__(self, world: World, **settings: object) -> None:
        tokens = token_settings(**settings)
        self.world = world
        self.replica: Replica = world.replica(tokens=tokens)
        self.access_tokens = AccessTokens(
            keys=world._keys, settings=tokens, permissions=PERMISSIONS, clock=world.clock
        )
        self.validation = TokenValidation(
            access_tokens=self.access_tokens,
            sessions=self.replica.sessions.validation,
            permissions=PERMISSIONS,
            revocations=KnownRevocations(),
            slices=Slices(),
        )
        self.tokens = ServiceTokens(
            database=world.database,
            access_tokens=self.access_tokens,
            validation=self.validation,
            settings=tokens,
            clock=world.clock,
        )

    async def issue(
        self, audience: str = "billing", *scopes: str, caller: Caller = SHOP
    ) -> SignedToken:
        return await self.tokens.issue(CALL, caller, audience, scopes)

    async def exchange(
        self, token: str, audience: str = "", *scopes: str, caller: Caller = SHOP
    ) -> SignedToken:
        return await self.tokens.exchange(CALL, caller, token, audience, scopes)

    async def judge(
        self,
        token: str,
        audience: str | None = None,
        caller: Caller | None = None,
        scopes: Sequence[str] = (),
        *,
        strict: bool = False,
    ) -> TokenResult:
        thumbprint = caller.thumbprint if caller else b""
        check = TokenCheck(token, audience, scopes, strict, thumbprint)
        return await self.validation.validate(check)

    async def claims(self, token: str) -> Claims:
        """Return the claims of a user's active token."""
        claims = (await self.judge(token)).claims
        assert isinstance(claims, Claims)
        return claims

    async def login(self, *roles: str) -> Tokens:
        user_id = await self.world.add_user(roles or ("user",))
        return await self.world.open(self.replica, user_id)

    async def bound(self, tokens: Tokens, caller: Caller) -> str:
        """Return the user's access token, signed again with a binding to a certificate."""
        payload = payload_of(tokens.access_token) | {
            "cnf": token_claims.confirmation(caller.thumbprint)
        }
        members = {name: payload[name] for name in payload if name not in {"aud", "exp"}}
        signed = await self.access_tokens.sign(
            members, ("authsvc",), tokens.access_token_expire_time
        )
        return signed.text


def payload_of(token: str) -> dict[str, object]:
    payload: dict[str, object] = json.loads(base64url.decode(token.split(".")[1]))
    return payload
