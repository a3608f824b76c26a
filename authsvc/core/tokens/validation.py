"""Owns the question whether an access token is active: what it says, and whether its session lives.

A token that is bound to a certificate is active only with that certificate (RFC 8705); a service's
own token has no session.

A token is inactive as soon as its session was ended or is gone, or its user is disabled. It never
outlives the session's absolute end, because it is issued that way. It may outlive the idle expiry,
which is about refreshing: who was given an hour has that hour.
"""

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from authsvc.core.sessions.sessions import Sessions
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.errors import bearer_invalid
from authsvc.models.sessions import Session
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims
from authsvc.models.users import UserStatus


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """An access token to be judged; `audience` "" is the service's own default, None is any.

    `certificate_thumbprint` is the SHA-256 of the client certificate that it came with, b"": none.
    """

    access_token: str = field(repr=False)
    audience: str | None = ""
    required_scopes: Sequence[str] = ()
    strict: bool = False
    certificate_thumbprint: bytes = b""


@dataclass(frozen=True, slots=True)
class TokenResult:
    """What became of a check: the claims if the token is active, else the reason."""

    active: bool
    reason: InactiveReason | None = None
    claims: Claims | ServiceClaims | None = None


_INACTIVE: Final = {reason: TokenResult(active=False, reason=reason) for reason in InactiveReason}


class TokenValidation:
    """Judges access tokens."""

    def __init__(self, access_tokens: AccessTokens, sessions: Sessions) -> None:
        self._access_tokens = access_tokens
        self._sessions = sessions

    async def validate(self, check: TokenCheck) -> TokenResult:
        """Judge an access token; with `strict` its session is asked of the database."""
        claims = await self._access_tokens.verify_with_new_keys(
            check.access_token, check.audience, strict=check.strict
        )
        if isinstance(claims, InactiveReason):
            return _INACTIVE[claims]
        bound_to = claims.certificate_thumbprint
        if bound_to and not hmac.compare_digest(bound_to, check.certificate_thumbprint):
            return _INACTIVE[InactiveReason.CERTIFICATE_MISMATCH]
        if isinstance(claims, Claims) and (
            check.strict or not self._sessions.find_cached(claims.session_id)
        ):
            reason = _state(await self._sessions.find(claims.session_id, strict=check.strict))
            if reason is not None:
                return _INACTIVE[reason]
        if check.required_scopes:
            missing = self._access_tokens.require_scopes(claims, check.required_scopes)
            if missing is not None:
                return _INACTIVE[missing]
        return TokenResult(active=True, claims=claims)

    async def validate_many(self, tokens: Sequence[str], audience: str = "") -> list[TokenResult]:
        """Judge several access tokens, none of which came with a certificate, in their order."""
        cached = self._judge_cached(tokens, audience)
        missing = [
            TokenCheck(token, audience)
            for token, result in zip(tokens, cached, strict=True)
            if result is None
        ]
        stored = iter(await asyncio.gather(*map(self.validate, missing)))
        return [result or next(stored) for result in cached]

    async def bearer(self, token: str) -> Claims:
        """Return what the access token of a user says who acts on the own account.

        Tokens of services and those that were exchanged are none: no service becomes a user by
        what was given to it to be used elsewhere.

        Raises:
            Unauthenticated: BEARER_INVALID.
        """
        claims = (await self.validate(TokenCheck(token))).claims
        if not isinstance(claims, Claims) or claims.actors or claims.certificate_thumbprint:
            raise bearer_invalid()
        return claims

    def _judge_cached(self, tokens: Sequence[str], audience: str) -> list[TokenResult | None]:
        """Return the results for which nothing has to be read; None: the others."""
        verify, find = self._access_tokens.verify, self._sessions.find_cached
        results: list[TokenResult | None] = []
        for token in tokens:
            claims = verify(token, audience)
            if isinstance(claims, InactiveReason):
                # Its key may be one that this replica has yet to read.
                unknown_key = claims is InactiveReason.SIGNATURE_INVALID
                results.append(None if unknown_key else _INACTIVE[claims])
            elif claims.certificate_thumbprint or not isinstance(claims, Claims):
                results.append(_INACTIVE[InactiveReason.CERTIFICATE_MISMATCH])
            elif find(claims.session_id) is None:
                results.append(None)
            else:
                results.append(TokenResult(active=True, claims=claims))
        return results


def _state(session: Session | None) -> InactiveReason | None:
    if session is None:
        return InactiveReason.SESSION_UNKNOWN
    if session.revoke_time is not None:
        return InactiveReason.SESSION_REVOKED
    if session.user_status is not UserStatus.ACTIVE:
        return InactiveReason.USER_DISABLED
    return None
