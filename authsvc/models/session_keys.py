"""Owns the domain values of session keys: a public key, and its attestation for a session."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from authsvc.models.ids import SessionId, SessionKeyId, UserId

# `aud` of statements. No access token may have it, so the settings refuse it.
STATEMENT_AUDIENCE = "urn:authsvc:session-key"


class PublicKeyKind(StrEnum):
    """What form a public key has."""

    JWK = "jwk"
    DTLS_FINGERPRINT = "dtls_fingerprint"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key in the canonical form of its kind, so that equal keys have equal texts."""

    kind: PublicKeyKind
    text: str


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A public key that a session's user has, for one purpose."""

    key_id: SessionKeyId
    session_id: SessionId
    user_id: UserId
    purpose: str
    public_key: PublicKey
    create_time: datetime
    expire_time: datetime
