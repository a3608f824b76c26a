"""Owns credentials for TURN servers: time-limited, and computed from a secret shared with them.

They are those of the TURN REST API (draft-uberti-behave-turn-rest-00), which coturn calls
`use-auth-secret`: the username holds the expiry, and the password is the username's HMAC. So a
server checks them without asking anybody, and can't be told that a session has ended.
"""

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from authsvc.config import TurnSettings
from authsvc.core.attempts.brute_force import BruteForce
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.session_keys.proof import SessionProof, prove
from authsvc.core.session_keys.ttl import bounded_ttl
from authsvc.core.sessions.validation import SessionValidation
from authsvc.errors import ServiceError, not_configured
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.store.postgres.database import Database

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class TurnCredential:
    """What a client logs in to the servers `uris` with."""

    username: str
    password: str = field(repr=False)
    ttl: timedelta
    uris: Sequence[str]


class TurnCredentials:
    """Creates credentials for the TURN servers of the settings."""

    def __init__(
        self,
        *,
        database: Database,
        validation: SessionValidation,
        brute_force: BruteForce,
        settings: TurnSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._validation = validation
        self._brute_force = brute_force
        self._settings = settings
        self._clock = clock

    async def create(
        self, call: Call, proof: SessionProof, requested: timedelta | None
    ) -> TurnCredential:
        """Return credentials for the session's user; no `requested` lifetime means the longest.

        Raises:
            FailedPrecondition: NOT_CONFIGURED: the settings name no TURN server.
            FieldInvalid: The ttl is out of bounds.
            TooManyAttempts: The user got too many recently.
            Unauthenticated: SESSION_INVALID or SESSION_BINDING_MISMATCH.
        """
        if not self._settings.uris:
            raise not_configured("turn.uris", "No TURN server is configured.")
        ttl = bounded_ttl(requested, self._settings.max_lifetime)
        session = await prove(self._validation, proof)
        receipt = await self._brute_force.charge_turn(session.user_id)
        now = self._clock.now()
        expire_time = min(now + ttl, session.absolute_expire_time)
        expiry = int(expire_time.timestamp())
        username = f"{expiry}:{session.user_id}"
        event = AuditEvent(
            AuditType.TURN_CREDENTIALS_CREATE,
            call,
            session.user_id,
            session.session_id,
            proof.client,
            {"expire_time": expire_time.replace(microsecond=0).isoformat()},
        )
        try:
            async with self._database.connection() as connection:
                await record_event(connection, now, event)
        except ServiceError:
            await receipt.refund()
            raise
        return TurnCredential(
            username=username,
            password=self._password(username),
            ttl=max(_SECOND * (expiry - int(now.timestamp())), timedelta()),
            uris=self._settings.uris,
        )

    def _password(self, username: str) -> str:
        secret = self._settings.secrets[0].get_secret_value()
        mac = hmac.digest(secret.encode(), username.encode(), self._settings.algorithm)
        return base64.b64encode(mac).decode()
