"""Owns access tokens: what they say of a session, and whether one that comes back may be trusted.

A token is a JWT (RFC 7519) of the type `at+jwt` (RFC 9068, whose `client_id` it lacks: there are no
OAuth clients). PyJWT does the signatures; form and claims are checked by ourselves, because PyJWT
would accept any `typ`, a missing or fractional `exp`, and duplicate members, and reads its own
clock.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from authsvc.config import TokenSettings
from authsvc.core.signing import jws, token_claims
from authsvc.core.signing.jwk import VerifyingKey
from authsvc.core.signing.jws import Malformed
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.clock import Clock
from authsvc.models.sessions import Session
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims

_TYPE = "at+jwt"
_TOKEN_ID_BYTES = 16

AnyClaims: TypeAlias = Claims | ServiceClaims


@dataclass(frozen=True, slots=True)
class SignedToken:
    """An access token, with its own id (`jti`) and when it expires."""

    text: str = field(repr=False)
    token_id: str
    expire_time: datetime


class TokenTooLong(ValueError):
    """What a token is to say does not fit in one."""


class AccessTokens:
    """Issues access tokens and verifies them from memory.

    `permissions` maps a role to what it may do. Up to twice `cache_size` verified tokens are
    remembered, so that a token's signature is verified once; all else is checked on every call.
    """

    def __init__(
        self,
        keys: SigningKeys,
        settings: TokenSettings,
        permissions: Mapping[str, tuple[str, ...]],
        clock: Clock,
        cache_size: int = 10_000,
    ) -> None:
        self._keys = keys
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._lifetime = settings.access_lifetime
        self._skew = settings.clock_skew
        self._permissions = permissions
        self._clock = clock
        self._verified = _VerifiedTokens(cache_size)

    def issue(self, session: Session) -> tuple[str, datetime]:
        """Return a token for the session's user and when it expires, at the session's end at last.

        Raises:
            StoreUnavailable: No key is active: it was revoked a moment ago.
        """
        permissions = self.permissions_of(session.user_roles)
        token = self.sign(
            {
                "sub": str(session.user_id),
                "sid": str(session.session_id),
                "roles": list(session.user_roles),
                "permissions": permissions,
                "scope": " ".join(permissions),
                "amr": list(session.authentication_methods),
                "auth_time": int(session.authentication_time.timestamp()),
            },
            (self._audience,),
            min(self._clock.now() + self._lifetime, session.absolute_expire_time),
        )
        return token.text, token.expire_time

    def sign(
        self, members: Mapping[str, object], audiences: Sequence[str], expire_time: datetime
    ) -> SignedToken:
        """Return a new token that says `members`, for `audiences`, until `expire_time` at last.

        Raises:
            StoreUnavailable: No key is active: it was revoked a moment ago.
            TokenTooLong: It would be longer than what is accepted.
        """
        issued = int(self._clock.now().timestamp())
        expire_time = expire_time.replace(microsecond=0)
        token_id = secrets.token_urlsafe(_TOKEN_ID_BYTES)
        payload = {
            "iss": self._issuer,
            "aud": audiences[0] if len(audiences) == 1 else list(audiences),
            "exp": int(expire_time.timestamp()),
            "iat": issued,
            "nbf": issued,
            "jti": token_id,
            **members,
        }
        text = jws.sign(self._keys.active, _TYPE, payload)
        if len(text) > jws.MAX_TOKEN_BYTES:
            raise TokenTooLong("what the token has to say does not fit in it")
        return SignedToken(text, token_id, expire_time)

    def permissions_of(self, roles: Iterable[str]) -> list[str]:
        """Return what users with these roles may do."""
        granted = (self._permissions.get(role, ()) for role in roles)
        return list(dict.fromkeys(name for names in granted for name in names))

    def verify(self, token: str, audience: str | None = "") -> AnyClaims | InactiveReason:
        """Return what a token says, or why it must not be trusted; never raises for a token.

        `audience` has to equal one of the token's `aud` values; "" is the audience of the settings,
        None is any.
        `exp` is exact, `nbf` and `iat` may be `clock_skew` in the future. A token by a key that
        this process has not read yet is SIGNATURE_INVALID here: see `verify_with_new_keys`.
        """
        entry = self._verified.get(token)
        # The key is looked up again so that what a revoked one signed dies with it.
        if entry is not None and self._keys.find(entry[1].key_id) is entry[1]:
            return self._judge(entry[0], audience)
        outcome = self._verify_form_and_signature(token)
        if isinstance(outcome, InactiveReason):
            return outcome
        verdict = self._judge(outcome[0], audience)
        if not isinstance(verdict, InactiveReason):
            self._verified.put(token, outcome)
        return verdict

    async def verify_with_new_keys(
        self, token: str, audience: str | None = "", *, strict: bool = False
    ) -> AnyClaims | InactiveReason:
        """Do as `verify`, but never with keys that are out of date.

        The keys are read first if the token names one that is not known, which another replica may
        have made a moment ago; and before a token is accepted if revocations are not heard of at
        present, or with `strict`. Otherwise it costs the same.

        Raises:
            StoreUnavailable: The keys had to be read and could not be.
        """
        outcome = self.verify(token, audience)
        if not isinstance(outcome, InactiveReason):
            if strict or not self._keys.is_fresh():
                await self._keys.refresh()
                return self.verify(token, audience)
        elif outcome is InactiveReason.SIGNATURE_INVALID:
            key_id = jws.parse(token, _TYPE).key_id
            if await self._keys.learn(key_id):
                return self.verify(token, audience)
        return outcome

    def require_scopes(self, claims: AnyClaims, scopes: Iterable[str]) -> InactiveReason | None:
        """Return SCOPE_MISSING unless the token has all of `scopes`."""
        missing = not set(scopes).issubset(claims.scopes)
        return InactiveReason.SCOPE_MISSING if missing else None

    def _verify_form_and_signature(
        self, token: str
    ) -> tuple[AnyClaims, VerifyingKey] | InactiveReason:
        try:
            parts = jws.parse(token, _TYPE)
            claims = token_claims.read(parts.payload)
        except Malformed:
            return InactiveReason.MALFORMED
        key = self._keys.find(parts.key_id)
        if key is None or key.algorithm != parts.algorithm:
            return InactiveReason.SIGNATURE_INVALID
        if not key.verify(parts.signing_input, parts.signature):
            return InactiveReason.SIGNATURE_INVALID
        return claims, key

    def _judge(self, claims: AnyClaims, audience: str | None) -> AnyClaims | InactiveReason:
        now = self._clock.now()
        if now >= claims.expire_time:
            return InactiveReason.EXPIRED
        if max(claims.not_before_time, claims.issue_time) > now + self._skew:
            return InactiveReason.NOT_YET_VALID
        if claims.issuer != self._issuer:
            return InactiveReason.ISSUER_MISMATCH
        if audience is not None and (audience or self._audience) not in claims.audiences:
            return InactiveReason.AUDIENCE_MISMATCH
        return claims


class _VerifiedTokens:
    """Remembers the tokens used last, between `size` and twice `size` of them.

    Two generations: a look-up costs one dictionary access, and the older one is dropped whole.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[str, tuple[AnyClaims, VerifyingKey]] = {}
        self._old: dict[str, tuple[AnyClaims, VerifyingKey]] = {}

    def get(self, token: str) -> tuple[AnyClaims, VerifyingKey] | None:
        entry = self._young.get(token)
        if entry is None and (entry := self._old.get(token)) is not None:
            self.put(token, entry)
        return entry

    def put(self, token: str, entry: tuple[AnyClaims, VerifyingKey]) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[token] = entry
