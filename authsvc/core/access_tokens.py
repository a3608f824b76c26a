"""Owns access tokens: what they say of a session, and whether one that comes back may be trusted.

A token is a JWT (RFC 7519) of the type `at+jwt` (RFC 9068, whose `client_id` it lacks: there are no
OAuth clients). PyJWT does the signatures; form and claims are checked here, because PyJWT would
accept any `typ`, a missing or fractional `exp`, and duplicate members, and reads its own clock.
"""

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from authsvc.config import TokenSettings
from authsvc.core import jws
from authsvc.core.jwk import VerifyingKey
from authsvc.core.jws import Malformed
from authsvc.core.signing_keys import SigningKeys
from authsvc.models import Claims, Clock, InactiveReason, Session, SessionId, UserId

_TYPE = "at+jwt"
_TOKEN_ID_BYTES = 16
# Exclusive; in the year 2286.
_MAX_TIME = 10_000_000_000


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
        now = self._clock.now().replace(microsecond=0)
        expire_time = min(now + self._lifetime, session.absolute_expire_time.replace(microsecond=0))
        issued = int(now.timestamp())
        permissions = self._permissions_of(session.user_roles)
        payload = {
            "iss": self._issuer,
            "sub": str(session.user_id),
            "aud": self._audience,
            "exp": int(expire_time.timestamp()),
            "iat": issued,
            "nbf": issued,
            "jti": secrets.token_urlsafe(_TOKEN_ID_BYTES),
            "sid": str(session.session_id),
            "roles": list(session.user_roles),
            "permissions": permissions,
            "scope": " ".join(permissions),
            "amr": list(session.authentication_methods),
            "auth_time": int(session.authentication_time.timestamp()),
        }
        token = jws.sign(self._keys.active, _TYPE, payload)
        if len(token) > jws.MAX_TOKEN_BYTES:
            raise ValueError("the user's roles and permissions don't fit in an access token")
        return token, expire_time

    def verify(self, token: str, audience: str = "") -> Claims | InactiveReason:
        """Return what a token says, or why it must not be trusted; never raises for a token.

        `audience` has to equal one of the token's `aud` values; "" is the audience of the settings.
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
        if isinstance(verdict, Claims):
            self._verified.put(token, outcome)
        return verdict

    async def verify_with_new_keys(
        self, token: str, audience: str = "", *, strict: bool = False
    ) -> Claims | InactiveReason:
        """Do as `verify`, but never with keys that are out of date.

        The keys are read first if the token names one that is not known, which another replica may
        have made a moment ago; and before a token is accepted if revocations are not heard of at
        present, or with `strict`. Otherwise it costs the same.

        Raises:
            StoreUnavailable: The keys had to be read and could not be.
        """
        outcome = self.verify(token, audience)
        if isinstance(outcome, Claims) and (strict or not self._keys.is_fresh()):
            await self._keys.refresh()
            return self.verify(token, audience)
        if outcome is InactiveReason.SIGNATURE_INVALID:
            key_id = jws.parse(token, _TYPE).key_id
            if await self._keys.learn(key_id):
                return self.verify(token, audience)
        return outcome

    def require_scopes(self, claims: Claims, scopes: Iterable[str]) -> InactiveReason | None:
        """Return SCOPE_MISSING unless the token has all of `scopes`."""
        missing = not set(scopes).issubset(claims.scopes)
        return InactiveReason.SCOPE_MISSING if missing else None

    def _verify_form_and_signature(
        self, token: str
    ) -> tuple[Claims, VerifyingKey] | InactiveReason:
        try:
            parts = jws.parse(token, _TYPE)
            claims = _claims(parts.payload)
        except Malformed:
            return InactiveReason.MALFORMED
        key = self._keys.find(parts.key_id)
        if key is None or key.algorithm != parts.algorithm:
            return InactiveReason.SIGNATURE_INVALID
        if not key.verify(parts.signing_input, parts.signature):
            return InactiveReason.SIGNATURE_INVALID
        return claims, key

    def _judge(self, claims: Claims, audience: str) -> Claims | InactiveReason:
        now = self._clock.now()
        if now >= claims.expire_time:
            return InactiveReason.EXPIRED
        if max(claims.not_before_time, claims.issue_time) > now + self._skew:
            return InactiveReason.NOT_YET_VALID
        if claims.issuer != self._issuer:
            return InactiveReason.ISSUER_MISMATCH
        if (audience or self._audience) not in claims.audiences:
            return InactiveReason.AUDIENCE_MISMATCH
        return claims

    def _permissions_of(self, roles: Iterable[str]) -> list[str]:
        granted = (self._permissions.get(role, ()) for role in roles)
        return list(dict.fromkeys(name for names in granted for name in names))


class _VerifiedTokens:
    """Remembers the tokens used last, between `size` and twice `size` of them.

    Two generations: a look-up costs one dictionary access, and the older one is dropped whole.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[str, tuple[Claims, VerifyingKey]] = {}
        self._old: dict[str, tuple[Claims, VerifyingKey]] = {}

    def get(self, token: str) -> tuple[Claims, VerifyingKey] | None:
        entry = self._young.get(token)
        if entry is None and (entry := self._old.get(token)) is not None:
            self.put(token, entry)
        return entry

    def put(self, token: str, entry: tuple[Claims, VerifyingKey]) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[token] = entry


def _claims(payload: Mapping[str, object]) -> Claims:
    """Return the claims of a payload; every one is required, in the one kind it is issued in."""
    scope = _member(payload, "scope")
    return Claims(
        subject=UserId(_uuid(_member(payload, "sub"))),
        issuer=_text(_member(payload, "iss")),
        audiences=_audiences(_member(payload, "aud")),
        expire_time=_time(_member(payload, "exp")),
        issue_time=_time(_member(payload, "iat")),
        not_before_time=_time(_member(payload, "nbf")),
        token_id=_text(_member(payload, "jti")),
        session_id=SessionId(_uuid(_member(payload, "sid"))),
        roles=_texts(_member(payload, "roles")),
        permissions=_texts(_member(payload, "permissions")),
        scopes=() if scope == "" else _texts(_text(scope).split(" ")),
        authentication_methods=_texts(_member(payload, "amr")),
        authentication_time=_time(_member(payload, "auth_time")),
    )


def _member(payload: Mapping[str, object], name: str) -> object:
    if name not in payload:
        raise Malformed(f"{name} is missing")
    return payload[name]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Malformed("not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed("half a surrogate pair") from None
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Malformed("not a list")
    return tuple(_text(item) for item in value)


def _audiences(value: object) -> tuple[str, ...]:
    """Return the values of `aud`: one text, or a list of at least one (RFC 7519 section 4.1.3)."""
    audiences = (_text(value),) if isinstance(value, str) else _texts(value)
    if not audiences:
        raise Malformed("no audience")
    return audiences


def _uuid(value: object) -> UUID:
    text = _text(value)
    try:
        parsed = UUID(text)
    except ValueError:
        raise Malformed("not a UUID") from None
    if str(parsed) != text:
        raise Malformed("not a UUID's canonical spelling")
    return parsed


def _time(value: object) -> datetime:
    """Return the time of a NumericDate; only whole seconds, which a bool is not."""
    if type(value) is not int or not 0 < value < _MAX_TIME:
        raise Malformed("not a time")
    return datetime.fromtimestamp(value, UTC)
