"""Owns the proof that a caller acts for the user of an active session: its token, checked strictly.

The checks are those of ValidateSession, but a session that is not active is an error here.
"""

from dataclasses import dataclass, field

from authsvc.core.sessions.validation import SessionCheck, SessionValidation
from authsvc.errors import session_binding_mismatch, session_invalid
from authsvc.models.calls import ClientContext
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason

_MISMATCHES = frozenset({InactiveReason.IP_MISMATCH, InactiveReason.USER_AGENT_MISMATCH})


@dataclass(frozen=True, slots=True)
class SessionProof:
    """What a caller shows for a session; an empty `csrf_token` is not checked."""

    session_token: str = field(repr=False)
    client: ClientContext = field(default_factory=ClientContext)
    csrf_token: str = field(default="", repr=False)


async def prove(validation: SessionValidation, proof: SessionProof) -> Session:
    """Return the session as the database has it now; using it extends it.

    Raises:
        Unauthenticated: SESSION_INVALID: it is not active, or the CSRF token isn't its;
            SESSION_BINDING_MISMATCH: it is bound to another client.
    """
    check = SessionCheck(proof.session_token, proof.client, proof.csrf_token, strict=True)
    result = await validation.validate(check)
    if result.reason in _MISMATCHES:
        raise session_binding_mismatch()
    if result.session is None:
        raise session_invalid(result.reason or InactiveReason.SESSION_UNKNOWN)
    if proof.csrf_token and not result.csrf_valid:
        raise session_invalid("CSRF_TOKEN")
    return result.session
