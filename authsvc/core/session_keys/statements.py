"""Owns statements: the signed form in which a session key's attestation leaves the service.

A statement is a JWT of a type, with an audience and with claims of its own, so nobody who checks
any of these takes it for an access token, or an access token for it.
"""

import json

from authsvc.config import TokenSettings
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import not_configured
from authsvc.models.clock import Clock
from authsvc.models.session_keys import STATEMENT_AUDIENCE, PublicKeyKind, SessionKey

_TYPE = "session-key+jwt"


class Statements:
    """Signs statements with the active signing key."""

    def __init__(self, keys: SigningKeys, settings: TokenSettings, clock: Clock) -> None:
        self._keys = keys
        self._issuer = settings.issuer
        self._clock = clock

    def require_public_key(self) -> None:
        """Check that others can verify what the active key signs.

        Raises:
            FailedPrecondition: NOT_CONFIGURED: it is symmetric, so nobody else could verify.
            StoreUnavailable: No key is active, because it was revoked a moment ago.
        """
        if self._keys.active.public_jwk is None:
            raise not_configured(
                "tokens.algorithm", "Statements can't be verified with a symmetric signing key."
            )

    async def sign(self, key: SessionKey) -> str:
        """Return the statement about a key: issued now, and expiring with the key.

        Raises:
            FailedPrecondition, StoreUnavailable: As `require_public_key`, and if the
                HSM did not answer.
        """
        self.require_public_key()
        issued = int(self._clock.now().timestamp())
        payload = {
            "iss": self._issuer,
            "aud": STATEMENT_AUDIENCE,
            "sub": str(key.user_id),
            "sid": str(key.session_id),
            "jti": str(key.key_id),
            "iat": issued,
            "nbf": issued,
            "exp": int(key.expire_time.timestamp()),
            "purpose": key.purpose,
            **_confirmation(key),
        }
        return await self._keys.sign(_TYPE, payload)


def _confirmation(key: SessionKey) -> dict[str, object]:
    """Return the claim that holds the key: `cnf` (RFC 7800 section 3.2), or `dtls_fingerprint`."""
    if key.public_key.kind is PublicKeyKind.JWK:
        return {"cnf": {"jwk": json.loads(key.public_key.text)}}
    return {"dtls_fingerprint": key.public_key.text}
