"""Owns a process's set of signing keys: unsealed once, then looked up in memory."""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import SigningKey
from authsvc.models.sealing import SIGNING_KEYS
from authsvc.models.signing import KeyState, SigningKeyInfo
from authsvc.store.signing_keys import SigningKeyRow

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The signing keys as of the last read.

    `usable` holds the trusted ones by id; `unreadable` the ids of those that could not be opened.
    """

    infos: Sequence[SigningKeyInfo] = ()
    usable: Mapping[str, SigningKey] = field(default_factory=dict)
    unreadable: AbstractSet[str] = frozenset()

    def in_state(self, state: KeyState) -> SigningKeyInfo | None:
        """Return the first key in `state`; at most one is active, and at most one prepared."""
        return next((info for info in self.infos if info.state is state), None)

    def active(self) -> SigningKey | None:
        """Return the key that signs."""
        info = self.in_state(KeyState.ACTIVE)
        return self.usable.get(info.key_id) if info else None

    def jwks(self) -> str:
        """Return the public keys as a JSON Web Key Set (RFC 7517), without symmetric keys."""
        return json.dumps(
            {"keys": [key.public_jwk for key in self.usable.values() if key.public_jwk]}
        )

    def has_secret(self) -> bool:
        """Return whether there are symmetric keys, which are not published."""
        return any(key.public_jwk is None for key in self.usable.values())

    def without(self, key_id: str) -> "KeySet":
        """Return the set without a key that must no longer be trusted."""
        return KeySet(
            [info for info in self.infos if info.key_id != key_id],
            {name: key for name, key in self.usable.items() if name != key_id},
            self.unreadable,
        )


def open_keys(
    rows: Sequence[SigningKeyRow], keyring: Keyring, previous: KeySet, now: datetime
) -> KeySet:
    """Return the keys of `rows`; keys in `previous` are reused instead of unsealed again.

    A key that can't be opened is left out and logged once; what the others signed stays valid.
    """
    usable, unreadable = {}, set()
    for row in rows:
        info = row.info
        if not _is_trusted(info, now):
            continue
        try:
            usable[info.key_id] = previous.usable.get(info.key_id) or open_key(row, keyring)
        except (SealError, ValueError) as error:
            unreadable.add(info.key_id)
            if info.key_id not in previous.unreadable:
                log.warning("signing_key_unreadable", key_id=info.key_id, cause=str(error))
    return KeySet([row.info for row in rows], usable, unreadable)


def seal(key: SigningKey, keyring: Keyring) -> bytes:
    """Return a key's secret sealed for its row."""
    return keyring.seal(key.secret_bytes(), **SIGNING_KEYS.place(key.key_id))


def _is_trusted(info: SigningKeyInfo, now: datetime) -> bool:
    if info.state is KeyState.REVOKED:
        return False
    return info.expire_time is None or now < info.expire_time


def open_key(row: SigningKeyRow, keyring: Keyring) -> SigningKey:
    """Return the key; its public half is derived from the sealed secret, not read from the table.

    So nobody who can write to the table can make the service trust their own key.

    Raises:
        SealError, ValueError: It can't be opened, or is not what it says.
    """
    secret = keyring.open(row.sealed_key, **SIGNING_KEYS.place(row.info.key_id))
    return jwk.restore(row.info.key_id, row.info.algorithm, secret)
