"""Owns the tokens that services request: their own, and narrower ones exchanged for a user's.

A service's own token is bound to the certificate of the call that requested it (RFC 8705). A user's
token is exchanged (RFC 8693) for one that never grants more, never lasts longer, ends with the same
session, and names the services that act for the user (`act`). A caller may only request the
audiences and scopes that its settings list.
"""

from collections.abc import Sequence
from datetime import datetime

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.roles.permissions import narrow_scopes
from authsvc.core.signing.access_tokens import AccessTokens, SignedToken, TokenTooLong
from authsvc.core.signing.token_claims import MAX_ACTORS, acting, confirmation
from authsvc.core.tokens.validation import TokenCheck, TokenValidation
from authsvc.errors import CallerNotAllowed, FieldInvalid, credentials_invalid
from authsvc.models.calls import Call, Caller
from authsvc.models.clock import Clock
from authsvc.models.tokens import Claims
from authsvc.store.postgres.database import Database


class ServiceTokens:
    """Issues and exchanges tokens for calling services."""

    def __init__(
        self,
        *,
        database: Database,
        access_tokens: AccessTokens,
        validation: TokenValidation,
        settings: TokenSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._access_tokens = access_tokens
        self._validation = validation
        self._audience = settings.audience
        self._lifetime = settings.service_lifetime
        self._clock = clock

    async def issue(
        self, call: Call, caller: Caller, audience: str, scopes: Sequence[str]
    ) -> SignedToken:
        """Return a token for the calling service itself, bound to its certificate.

        An empty `audience` means this service's default; empty `scopes` mean all that the caller
        may request. The token expires no later than the certificate.

        Raises:
            CallerNotAllowed: The caller's settings lack this audience or one of the scopes.
            FieldInvalid: The scopes do not fit in one token.
        """
        audience = audience or self._audience
        if audience not in caller.audiences or not caller.scopes.issuperset(scopes):
            raise CallerNotAllowed("The caller may not request this audience or one of the scopes.")
        granted = list(dict.fromkeys(scopes or sorted(caller.scopes)))
        expire_time = self._clock.now() + self._access_tokens.shortened(self._lifetime)
        if caller.certificate_expire_time is not None:
            expire_time = min(expire_time, caller.certificate_expire_time)
        members = {
            "sub": caller.identity,
            "scope": " ".join(granted),
            "cnf": confirmation(caller.thumbprint),
        }
        try:
            token = await self._access_tokens.sign(members, (audience,), expire_time)
        except TokenTooLong:
            raise FieldInvalid("scopes", "are too many for one token") from None
        event = AuditEvent(
            AuditType.SERVICE_TOKEN_ISSUE, call, detail=_detail(token, (audience,), granted)
        )
        await self._record(event)
        return token

    async def exchange(
        self,
        call: Call,
        caller: Caller,
        subject_token: str,
        audience: str,
        scopes: Sequence[str],
    ) -> SignedToken:
        """Exchange a user's token for one with the caller as its actor.

        An empty `audience` and empty `scopes` mean those of the user's token. Its session is read
        from the database, and a token bound to a certificate is accepted only from that caller.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID: it is not an active token of a user.
            CallerNotAllowed: The caller's settings lack this audience.
            FieldInvalid: The token lacks a scope or was exchanged too many times.
        """
        claims = await self._subject(caller, subject_token)
        audiences = (audience,) if audience else claims.audiences
        if not caller.audiences.union(claims.audiences).issuperset(audiences):
            raise CallerNotAllowed("The caller may not request this audience.")
        granted = narrow_scopes(scopes, claims.scopes)
        actors = (caller.identity, *claims.actors)
        if len(actors) > MAX_ACTORS:
            raise FieldInvalid("subject_token", f"has already been exchanged {MAX_ACTORS} times")
        lifetime = self._access_tokens.shortened(self._lifetime)
        expire_time = min(self._clock.now() + lifetime, claims.expire_time)
        token = await self._sign(claims, audiences, granted, actors, expire_time)
        event = AuditEvent(
            AuditType.TOKEN_EXCHANGE,
            call,
            claims.subject,
            claims.session_id,
            detail={**_detail(token, audiences, granted), "from_token_id": claims.token_id},
        )
        await self._record(event)
        return token

    async def _subject(self, caller: Caller, token: str) -> Claims:
        check = TokenCheck(
            token, audience=None, strict=True, certificate_thumbprint=caller.thumbprint
        )
        claims = (await self._validation.validate(check)).claims
        if not isinstance(claims, Claims):
            raise credentials_invalid()
        return claims

    async def _sign(
        self,
        claims: Claims,
        audiences: Sequence[str],
        scopes: Sequence[str],
        actors: tuple[str, ...],
        expire_time: datetime,
    ) -> SignedToken:
        members: dict[str, object] = {
            "sub": str(claims.subject),
            "sid": str(claims.session_id),
            # A role implies all of its permissions, so none is passed on.
            "roles": [],
            "permissions": [name for name in claims.permissions if name in scopes],
            "scope": " ".join(scopes),
            "amr": list(claims.authentication_methods),
            "auth_time": int(claims.authentication_time.timestamp()),
            "act": acting(actors),
        }
        if claims.certificate_thumbprint:
            members["cnf"] = confirmation(claims.certificate_thumbprint)
        try:
            # As old as the token that it was made from: whatever refuses that one refuses both.
            issue_second = int(claims.issue_time.timestamp())
            return await self._access_tokens.sign(members, audiences, expire_time, issue_second)
        except TokenTooLong:
            raise FieldInvalid("subject_token", "has no room for one more actor") from None

    async def _record(self, event: AuditEvent) -> None:
        async with self._database.connection() as connection:
            await record_event(connection, self._clock.now(), event)


def _detail(
    token: SignedToken, audiences: Sequence[str], scopes: Sequence[str]
) -> dict[str, str | Sequence[str]]:
    return {
        "token_id": token.token_id,
        "audiences": list(audiences),
        "scopes": list(scopes),
        "expire_time": token.expire_time.isoformat(),
    }
