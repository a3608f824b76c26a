"""Owns registration tokens: they show that their holder set an account's password by registering.

A token is `as1_` and the base64url of: version (1 byte), user id (16), expiry in seconds since the
epoch (8), HMAC-SHA256 (32). The HMAC covers the prefix, the fields before it, and the account's
password hash: once the password has changed, the token counts no more. No row is kept.

The token alone opens nothing. It only accompanies the code that verifies the address.
"""

import hashlib
import hmac
import struct
from datetime import timedelta
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.core.lib.sealing import Keyring
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store.users import Credential

_PREFIX = "as1_"
_VERSION = 1
_CONTENT = struct.Struct(">B16sQ")
_MAC_BYTES = 32
_LENGTH = len(_PREFIX) + (_CONTENT.size + _MAC_BYTES) * 4 // 3
# The longest `codes.verification_lifetime`. It is tied to no code, as they can be requested again.
REGISTRATION_LIFETIME = timedelta(days=7)


class RegistrationTokens:
    """Issues registration tokens with the newest key, and accepts those made with any."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keys = keyring.derive("registration-token")
        self._clock = clock

    def issue(self, user_id: UserId, phc: str) -> str:
        """Return the token of an account that was just registered with this password hash."""
        expiry = self._clock.now() + REGISTRATION_LIFETIME
        content = _CONTENT.pack(_VERSION, user_id.bytes, int(expiry.timestamp()))
        return _PREFIX + base64url.encode(content + _mac(self._keys[0], content, phc))

    def show_owner(self, token: str, credential: Credential | None) -> bool:
        """Return whether the token's holder set the account's present password.

        Without an account or a password, the work is the same and the result is False.
        """
        if len(token) != _LENGTH or not token.startswith(_PREFIX):
            return False
        try:
            raw = base64url.decode(token[len(_PREFIX) :])
        except ValueError:
            return False
        content, mac = raw[: _CONTENT.size], raw[_CONTENT.size :]
        phc = credential.phc if credential is not None else None
        # In constant time, with every key even after a match (ASVS 11.2.4).
        matches = [hmac.compare_digest(_mac(key, content, phc or ""), mac) for key in self._keys]
        if not any(matches) or credential is None or phc is None:
            return False
        version, user_id, expiry = _CONTENT.unpack(content)
        return (
            version == _VERSION
            and UUID(bytes=user_id) == credential.user_id
            and self._clock.now().timestamp() < expiry
        )


def _mac(key: bytes, content: bytes, phc: str) -> bytes:
    return hmac.digest(key, _PREFIX.encode() + content + phc.encode(), hashlib.sha256)
