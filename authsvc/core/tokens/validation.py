"""Owns the validation of access tokens: their claims and the state of their session.

A token bound to a certificate is active only with that certificate (RFC 8705); a service's own
token has no session.

A token is inactive as soon as its session has been ended or removed, or its user disabled. It is
issued so that it never outlives the session's absolute expiry. It may outlive the idle expiry,
which only limits refreshing: a token issued for an hour is valid for that hour. It is also inactive
once its user has lost a role; what its roles granted counts as far as they still grant it.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.revocations.user_tokens import is_refused
from authsvc.core.roles.permissions import Permissions
from authsvc.core.sessions.validation import SessionValidation
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.errors import bearer_invalid, impersonation_not_allowed
from authsvc.models.ids import SessionId
from authsvc.models.revocations import RevocationCursor
from authsvc.models.sessions import Session
from authsvc.models.tokens import Claims, InactiveReason, ServiceClaims


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """An access token to validate; `audience` "" means this service's default, None any.

    `certificate_thumbprint` is the SHA-256 of the client certificate that it was presented with, or
    b"" if there was none. What `min_cursor` names is taken into account.
    """

    access_token: str = field(repr=False)
    audience: str | None = ""
    required_scopes: Sequence[str] = ()
    strict: bool = False
    certificate_thumbprint: bytes = b""
    min_cursor: RevocationCursor | None = None


class TokenResult(NamedTuple):
    """The result of a check: the claims if the token is active, otherwise the reason."""

    active: bool
    reason: InactiveReason | None = None
    claims: Claims | ServiceClaims | None = None


_INACTIVE: Final = {reason: TokenResult(active=False, reason=reason) for reason in InactiveReason}


class TokenValidation:
    """Validates access tokens."""

    def __init__(
        self,
        *,
        access_tokens: AccessTokens,
        sessions: SessionValidation,
        permissions: Permissions,
        revocations: KnownRevocations,
        slices: Slices,
    ) -> None:
        self._access_tokens = access_tokens
        self._sessions = sessions
        self._permissions = permissions
        self._revocations = revocations
        self._slices = slices

    async def validate(self, check: TokenCheck) -> TokenResult:
        """Validate an access token; with `strict`, its session and roles are read again.

        Raises:
            StoreUnavailable: Something had to be read and could not be.
        """
        strict = check.strict or self._revocations.lack(check.min_cursor)
        claims = await self._access_tokens.verify_with_new_keys(
            check.access_token, check.audience, strict=strict
        )
        if isinstance(claims, InactiveReason):
            return _INACTIVE[claims]
        bound_to = claims.certificate_thumbprint
        if bound_to and not hmac.compare_digest(bound_to, check.certificate_thumbprint):
            return _INACTIVE[InactiveReason.CERTIFICATE_MISMATCH]
        if isinstance(claims, Claims):
            if strict or not self._permissions.is_fresh():
                await self._permissions.refresh()
            session = None if strict else self._sessions.find_cached(claims.session_id)
            if session is None:
                session = await self._sessions.find(claims.session_id, strict=strict)
            result = self._with_session(claims, session)
            if result.claims is None:
                return result
            claims = result.claims
        if check.required_scopes:
            missing = self._access_tokens.require_scopes(claims, check.required_scopes)
            if missing is not None:
                return _INACTIVE[missing]
        return TokenResult(active=True, claims=claims)

    async def validate_many(
        self,
        tokens: Sequence[str],
        audience: str = "",
        min_cursor: RevocationCursor | None = None,
    ) -> list[TokenResult]:
        """Validate several access tokens, presented without certificates, in order."""
        strict = self._revocations.lack(min_cursor)
        outcomes = await self._access_tokens.verify_many(
            tokens, audience, self._slices, strict=strict
        )
        if strict or not self._permissions.is_fresh():
            await self._permissions.refresh()
        find = _read_all if strict else self._sessions.find_cached
        results = await self._slices.map(
            lambda outcome: self._validate_without_read(outcome, find), outcomes
        )
        missing = [
            claims
            for claims, result in zip(outcomes, results, strict=True)
            if result is None and isinstance(claims, Claims)
        ]
        if missing:
            sessions = await self._sessions.find_many([claims.session_id for claims in missing])
            read = iter(map(self._with_session, missing, sessions))
            return [next(read) if result is None else result for result in results]
        return [result for result in results if result is not None]

    async def bearer(self, token: str, *, impersonated: bool = False) -> Claims:
        """Return the claims of a user's access token for acting on the user's own account.

        Tokens of services, bound tokens and exchanged tokens are rejected: a service must not
        become the user with a token that it was given for use elsewhere. The token of an
        impersonated session is accepted only with `impersonated`.

        Raises:
            Unauthenticated: BEARER_INVALID.
            PermissionDenied: IMPERSONATION_NOT_ALLOWED.
        """
        claims = (await self.validate(TokenCheck(token))).claims
        if not isinstance(claims, Claims) or claims.certificate_thumbprint:
            raise bearer_invalid()
        if claims.actors:
            session = await self._sessions.find(claims.session_id)
            # A token that was exchanged in an impersonated session has one more actor.
            if session is None or claims.actors != (session.impersonator,):
                raise bearer_invalid()
            if not impersonated:
                raise impersonation_not_allowed("An impersonated session must not do this.")
        return claims

    def _validate_without_read(
        self,
        outcome: Claims | ServiceClaims | InactiveReason,
        find: Callable[[SessionId], Session | None],
    ) -> TokenResult | None:
        """Return the result for a verified token, or None if its session has to be read."""
        if isinstance(outcome, InactiveReason):
            return _INACTIVE[outcome]
        if outcome.certificate_thumbprint or not isinstance(outcome, Claims):
            return _INACTIVE[InactiveReason.CERTIFICATE_MISMATCH]
        session = find(outcome.session_id)
        return None if session is None else self._with_session(outcome, session)

    def _with_session(self, claims: Claims, session: Session | None) -> TokenResult:
        """Return the result for a token of this session, None if that is unknown."""
        if session is None:
            return _INACTIVE[InactiveReason.SESSION_UNKNOWN]
        reason = session.end_reason()
        if reason is not None:
            return _INACTIVE[reason]
        if is_refused(claims.issue_time, session.token_revoke_time):
            return _INACTIVE[InactiveReason.TOKEN_OUTDATED]
        # The roles may have been defined more narrowly since the token was issued.
        narrowed = self._access_tokens.narrow(claims, session.user_roles)
        return TokenResult(active=True, claims=narrowed)


def _read_all(_session_id: SessionId) -> None:
    """Find no session without reading it."""
