"""Owns recovery codes: ten for each user with a second factor, in case it is lost."""

import hashlib
import hmac
import secrets

from authsvc.core.lib.sealing import Keyring
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import recovery_codes
from authsvc.store.postgres.database import Connection

_COUNT = 10
# Crockford's Base32: no two characters look alike. 16 of them are 80 bits.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 16
_GROUP = 4
_READ_AS = str.maketrans({"o": "0", "i": "1", "l": "1", "-": None, " ": None})


class RecoveryCodes:
    """Generates and redeems recovery codes. They are stored as keyed hashes (ASVS 6.5.2)."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keys = keyring.derive("recovery-code")
        self._newest_key_id = keyring.newest.key_id
        self._clock = clock

    async def generate(self, connection: Connection, user_id: UserId) -> list[str]:
        """Replace the user's codes with ten new ones; the caller has locked the user's row."""
        codes = [_random_code() for _ in range(_COUNT)]
        hashes = [_hash(self._keys[0], user_id, _canonical(code)) for code in codes]
        await recovery_codes.replace(
            connection, user_id, hashes, self._newest_key_id, self._clock.now()
        )
        return codes

    async def ensure(self, connection: Connection, user_id: UserId) -> list[str]:
        """Return ten new codes, as `generate` does, if the user has none left, otherwise none."""
        if await recovery_codes.count(connection, user_id):
            return []
        return await self.generate(connection, user_id)

    async def claim(self, connection: Connection, user_id: UserId, code: str) -> bool:
        """Use up a code in any spelling; return False if the user has no such code (ASVS 6.5.1)."""
        typed = _canonical(code)
        hashes = [_hash(key, user_id, typed) for key in self._keys]
        return await recovery_codes.claim(connection, user_id, hashes)


def _random_code() -> str:
    characters = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    return "-".join(characters[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP))


def _canonical(code: str) -> str:
    return code.lower().translate(_READ_AS)


def _hash(key: bytes, user_id: UserId, canonical: str) -> bytes:
    return hmac.digest(key, user_id.bytes + canonical.encode(), hashlib.sha256)
