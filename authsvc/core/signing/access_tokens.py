"""Owns access tokens: their issuing from a session, and their verification.

A token is a JWT (RFC 7519) of the type `at+jwt` (RFC 9068, but without `client_id`, as there are no
OAuth clients). PyJWT does the signatures; format and claims are checked here, because PyJWT would
accept any `typ`, a missing or fractional `exp`, and duplicate members, and reads its own clock.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias, cast

from authsvc.config import TokenSettings
from authsvc.core.lib.jitter import JITTER
from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.user_tokens import issue_second
from authsvc.core.roles.permissions import Permissions
from authsvc.core.signing import jws, token_claims
from authsvc.core.signing.jwk import VerifyingKey
from authsvc.core.signing.jws import Malformed
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.clock import Clock
from authsvc.models.roles import capped
from authsvc.models.sessions import Session
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims

_TYPE = "at+jwt"
_TOKEN_ID_BYTES = 16

AnyClaims: TypeAlias = Claims | ServiceClaims

_REJECTED = InactiveReason.SIGNATURE_INVALID


@dataclass(frozen=True, slots=True)
class _UnknownKey:
    """A token names a key that this process has not read, so nothing is known about it."""

    key_id: str


_Outcome: TypeAlias = AnyClaims | InactiveReason | _UnknownKey


@dataclass(frozen=True, slots=True)
class SignedToken:
    """An access token, its id (`jti`) and its expiry."""

    text: str = field(repr=False)
    token_id: str
    expire_time: datetime


class TokenTooLong(ValueError):
    """The claims do not fit in one token."""


class AccessTokens:
    """Issues access tokens and verifies them with keys held in memory.

    Up to twice `cache_size` verified tokens are cached, so that a token's signature is verified
    once; all else is checked on every call. `draw` returns a random number from 0 to 1.
    """

    def __init__(
        self,
        *,
        keys: SigningKeys,
        settings: TokenSettings,
        permissions: Permissions,
        clock: Clock,
        cache_size: int = 10_000,
        draw: Callable[[], float] = JITTER.random,
    ) -> None:
        self._keys = keys
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._lifetime = settings.access_lifetime
        self._jitter = settings.lifetime_jitter
        self._draw = draw
        self._skew = settings.clock_skew
        self._permissions = permissions
        self._clock = clock
        self._verified = _VerifiedTokens(cache_size)

    async def issue(self, session: Session, time: datetime) -> tuple[str, datetime]:
        """Return a token for the session's user, and its expiry, no later than the session's end.

        `time` is when it counts as issued: before the user was read, or while the user's row was
        locked (see `user_tokens`).

        Raises:
            StoreUnavailable: No key is active, because it was revoked a moment ago; or its HSM did
                not answer.
        """
        permissions = self._permissions.of(session.user_roles)
        lifetime = capped(
            self._permissions.lifetimes(session.user_roles).access_token, self._lifetime
        )
        impersonator = session.impersonator
        token = await self.sign(
            {
                "sub": str(session.user_id),
                "sid": str(session.session_id),
                "roles": list(session.user_roles),
                "permissions": permissions,
                "scope": " ".join(permissions),
                "amr": list(session.authentication_methods),
                "auth_time": int(session.authentication_time.timestamp()),
                **({"act": token_claims.acting((impersonator,))} if impersonator else {}),
            },
            (self._audience,),
            min(self._clock.now() + self.shortened(lifetime), session.absolute_expire_time),
            issue_second(time, session.token_revoke_time),
        )
        return token.text, token.expire_time

    def shortened(self, lifetime: timedelta) -> timedelta:
        """Return a lifetime less a random part of it, so that tokens are not refreshed in waves."""
        return lifetime * (1 - self._jitter * self._draw())

    async def sign(
        self,
        members: Mapping[str, object],
        audiences: Sequence[str],
        expire_time: datetime,
        issue_second: int | None = None,
    ) -> SignedToken:
        """Return a new token with the claims `members`, for `audiences`, expiring at `expire_time`.

        `issue_second` is its `iat`, if that is not the present time: for every token of a user.

        Raises:
            StoreUnavailable: No key is active, because it was revoked a moment ago; or its HSM did
                not answer.
            TokenTooLong: It would exceed the accepted length.
        """
        now = int(self._clock.now().timestamp())
        expire_time = expire_time.replace(microsecond=0)
        token_id = secrets.token_urlsafe(_TOKEN_ID_BYTES)
        payload = {
            "iss": self._issuer,
            "aud": audiences[0] if len(audiences) == 1 else list(audiences),
            "exp": int(expire_time.timestamp()),
            "iat": now if issue_second is None else issue_second,
            "nbf": now,
            "jti": token_id,
            **members,
        }
        text = await self._keys.sign(_TYPE, payload)
        if len(text) > jws.MAX_TOKEN_BYTES:
            raise TokenTooLong("the claims do not fit in one token")
        return SignedToken(text, token_id, expire_time)

    def verify(self, token: str, audience: str | None = "") -> AnyClaims | InactiveReason:
        """Return a token's claims, or why it must not be trusted; no token makes it raise.

        `audience` has to equal one of the token's `aud` values; "" means the audience of the
        settings, None any. `exp` is exact, and `nbf` may be up to `clock_skew` in the future. `iat`
        is not compared with the time: after a revocation, it may be a little ahead.
        A token signed by a key that this process has not read yet is SIGNATURE_INVALID here: see
        `verify_with_new_keys`.
        """
        outcome = self._examine(token, audience)
        return _REJECTED if isinstance(outcome, _UnknownKey) else outcome

    async def verify_with_new_keys(
        self, token: str, audience: str | None = "", *, strict: bool = False
    ) -> AnyClaims | InactiveReason:
        """Verify like `verify`, but never with outdated keys.

        The keys are read again if the token names an unknown one, which another replica may just
        have created. They are also read again before a token is accepted if revocations are not
        being received, or with `strict`. Otherwise it costs the same as `verify`.

        Raises:
            StoreUnavailable: The keys had to be read and could not be.
        """
        outcome = self._examine(token, audience)
        if isinstance(outcome, _UnknownKey):
            known = await self._keys.learn((outcome.key_id,))
            return self.verify(token, audience) if known else _REJECTED
        if (strict or not self._keys.is_fresh()) and not isinstance(outcome, InactiveReason):
            await self._keys.refresh()
            return self.verify(token, audience)
        return outcome

    async def verify_many(
        self, tokens: Sequence[str], audience: str, slices: Slices, *, strict: bool = False
    ) -> list[AnyClaims | InactiveReason]:
        """Verify several tokens like `verify_with_new_keys`, in order; the keys are read once.

        Raises:
            StoreUnavailable: The keys had to be read and could not be.
        """
        outcomes = await slices.map(lambda token: self._examine(token, audience), tokens)
        unknown = {outcome.key_id for outcome in outcomes if isinstance(outcome, _UnknownKey)}
        learned = bool(unknown) and await self._keys.learn(unknown)
        outdated = strict or not self._keys.is_fresh()
        if not unknown and not outdated:
            return cast("list[AnyClaims | InactiveReason]", outcomes)
        if outdated:
            await self._keys.refresh()

        def conclude(pair: tuple[str, _Outcome]) -> AnyClaims | InactiveReason:
            token, outcome = pair
            if isinstance(outcome, _UnknownKey):
                return self.verify(token, audience) if learned else _REJECTED
            # What a known key did not sign is not verified again: signatures are what costs.
            if outdated and not isinstance(outcome, InactiveReason):
                return self.verify(token, audience)
            return outcome

        return await slices.map(conclude, zip(tokens, outcomes, strict=True))

    def require_scopes(self, claims: AnyClaims, scopes: Iterable[str]) -> InactiveReason | None:
        """Return SCOPE_MISSING unless the token has all `scopes`."""
        missing = not set(scopes).issubset(claims.scopes)
        return InactiveReason.SCOPE_MISSING if missing else None

    def narrow(self, claims: Claims, roles: tuple[str, ...]) -> Claims:
        """Return the claims of a token of a user with these roles, as the roles are defined by now.

        What they no longer grant is left out, so the token can do no more than a new one could.
        """
        granted = self._permissions.granted(roles)
        if granted.issuperset(claims.permissions):
            return claims
        return replace(
            claims,
            permissions=tuple(name for name in claims.permissions if name in granted),
            scopes=tuple(name for name in claims.scopes if name in granted),
        )

    def _examine(self, token: str, audience: str | None) -> _Outcome:
        entry = self._verified.get(token)
        # The key is looked up again, as a revoked key invalidates what it signed.
        if entry is not None and self._keys.find(entry[1].key_id) is entry[1]:
            return self._judge(entry[0], audience)
        outcome = self._verify_form_and_signature(token)
        if not isinstance(outcome, tuple):
            return outcome
        verdict = self._judge(outcome[0], audience)
        if not isinstance(verdict, InactiveReason):
            self._verified.put(token, outcome)
        return verdict

    def _verify_form_and_signature(
        self, token: str
    ) -> tuple[AnyClaims, VerifyingKey] | InactiveReason | _UnknownKey:
        try:
            parts = jws.parse(token, _TYPE)
            claims = token_claims.read(parts.payload)
        except Malformed:
            return InactiveReason.MALFORMED
        key = self._keys.find(parts.key_id)
        if key is None:
            return _UnknownKey(parts.key_id)
        if key.algorithm != parts.algorithm or not key.verify(parts.signing_input, parts.signature):
            return _REJECTED
        return claims, key

    def _judge(self, claims: AnyClaims, audience: str | None) -> AnyClaims | InactiveReason:
        now = self._clock.now()
        if now >= claims.expire_time:
            return InactiveReason.EXPIRED
        if claims.not_before_time > now + self._skew:
            return InactiveReason.NOT_YET_VALID
        if claims.issuer != self._issuer:
            return InactiveReason.ISSUER_MISMATCH
        if audience is not None and (audience or self._audience) not in claims.audiences:
            return InactiveReason.AUDIENCE_MISMATCH
        return claims


class _VerifiedTokens:
    """A cache of the most recently used tokens, between `size` and twice `size` of them.

    It has two generations: a look-up costs one dictionary access, and the older generation is
    dropped as a whole.
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
