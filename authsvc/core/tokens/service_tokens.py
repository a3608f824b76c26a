"""Owns the tokens that services ask for: their own, and users' exchanged for narrower ones.

A service's own token is bound to the certificate of the call that asked for it (RFC 8705). A user's
token is exchanged (RFC 8693) for one that never may do more, never lasts longer, ends with the same
session, and says in whose hands it is (`act`). What a caller may ask for is in its settings: an
audience or a scope that is not named there is refused.
"""

from collections.abc import Sequence
from datetime import datetime

from authsvc.config import TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
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

        `audience` "" is the service's default, no `scopes` are all that the caller may ask for. It
        does not outlast the certificate.

        Raises:
            CallerNotAllowed: The settings don't give the caller this audience or one of the scopes.
            FieldInvalid: So many scopes don't fit in a token.
        """
        audience = audience or self._audience
        if audience not in caller.audiences or not caller.scopes.issuperset(scopes):
            raise CallerNotAllowed("The caller may not ask for this audience or one of the scopes.")
        granted = list(dict.fromkeys(scopes or sorted(caller.scopes)))
        expire_time = self._clock.now() + self._lifetime
        if caller.certificate_expire_time is not None:
            expire_time = min(expire_time, caller.certificate_expire_time)
        members = {
            "sub": caller.identity,
            "scope": " ".join(granted),
            "cnf": confirmation(caller.thumbprint),
        }
        try:
            token = self._access_tokens.sign(members, (audience,), expire_time)
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
        """Return a token for a user's token, with the caller as its actor.

        `audience` "" and no `scopes` are those of the user's token. Its session is asked of the
        database, and a token that is bound to a certificate is good for no other caller.

        Raises:
            Unauthenticated: CREDENTIALS_INVALID, it is no active token of a user.
            CallerNotAllowed: The settings don't give the caller this audience.
            FieldInvalid: A scope that the token lacks; or it passed through too many hands.
        """
        claims = await self._subject(caller, subject_token)
        audiences = (audience,) if audience else claims.audiences
        if not caller.audiences.union(claims.audiences).issuperset(audiences):
            raise CallerNotAllowed("The caller may not ask for this audience.")
        granted = _narrowed(scopes, claims.scopes)
        actors = (caller.identity, *claims.actors)
        if len(actors) > MAX_ACTORS:
            raise FieldInvalid("subject_token", f"was exchanged {MAX_ACTORS} times before")
        expire_time = min(self._clock.now() + self._lifetime, claims.expire_time)
        token = self._sign(claims, audiences, granted, actors, expire_time)
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

    def _sign(
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
            # A role stands for all of its permissions, so none is handed on.
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
            return self._access_tokens.sign(members, audiences, expire_time)
        except TokenTooLong:
            raise FieldInvalid("subject_token", "has no room for one more actor") from None

    async def _record(self, event: AuditEvent) -> None:
        async with self._database.connection() as connection:
            await record_event(connection, self._clock.now(), event)


def _narrowed(wanted: Sequence[str], held: Sequence[str]) -> list[str]:
    """Return what the new token may do: `wanted`, or all that the old one may."""
    for index, scope in enumerate(wanted):
        if scope not in held:
            raise FieldInvalid(f"scopes[{index}]", "is none of the token's scopes")
    return list(dict.fromkeys(wanted or held))


def _detail(
    token: SignedToken, audiences: Sequence[str], scopes: Sequence[str]
) -> dict[str, str | Sequence[str]]:
    return {
        "token_id": token.token_id,
        "audiences": list(audiences),
        "scopes": list(scopes),
        "expire_time": token.expire_time.isoformat(),
    }
