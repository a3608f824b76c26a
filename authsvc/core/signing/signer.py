"""Owns what signs: in this process, or outside of it, as in an HSM.

A key is made by one signer, and only that one can sign with it. Both verify in this process, which
holds every public key.
"""

import asyncio
from collections.abc import Set as AbstractSet
from typing import Protocol

from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import ExternalSecret, SigningKey
from authsvc.errors import StoreUnavailable


class ExternalSigner(Protocol):
    """Keeps secrets outside of this process, and signs with them without blocking the event loop.

    Each method raises StoreUnavailable if it can't be reached or doesn't answer in time.
    """

    async def generate(self, algorithm: str) -> SigningKey:
        """Make a key whose secret can't be read, and return it."""

    async def sign(self, algorithm: str, secret: ExternalSecret, message: bytes) -> bytes:
        """Return the signature over `message` (RFC 7518 section 3)."""

    async def find_ids(self) -> AbstractSet[bytes]:
        """Return the ids of all secrets that are labelled as this service's."""

    async def destroy(self, secret: ExternalSecret) -> None:
        """Destroy the secret; do nothing if it is gone already."""

    def close(self) -> None:
        """Free what it holds."""


class Signer:
    """Makes keys where the settings say, and signs with each where its secret is.

    `external` makes the new ones if `makes_external`; otherwise it only signs with those that it
    made before.
    """

    def __init__(
        self, external: ExternalSigner | None = None, *, makes_external: bool = False
    ) -> None:
        self._external = external
        self._makes_external = makes_external

    def is_wanted(self, key: SigningKey) -> bool:
        """Return whether a new key's secret would be where this one's is."""
        return (key.external is not None) == self._makes_external

    async def generate(self, algorithm: str) -> SigningKey:
        """Return a new key; raises StoreUnavailable."""
        if self._makes_external:
            return await self._reach().generate(algorithm)
        # In a thread, because generating an RSA key takes long enough to delay other calls.
        return await asyncio.to_thread(jwk.generate, algorithm)

    async def sign(self, key: SigningKey, message: bytes) -> bytes:
        """Return the key's signature over `message`; raises StoreUnavailable."""
        if key.external is None:
            return key.sign(message)
        return await self._reach().sign(key.algorithm, key.external, message)

    async def find_external_ids(self) -> AbstractSet[bytes]:
        """Return the ids of all secrets outside of this process; raises StoreUnavailable."""
        return await self._external.find_ids() if self._external else frozenset()

    async def destroy(self, key: SigningKey) -> None:
        """Destroy a key's secret if it is outside of this process; raises StoreUnavailable."""
        if key.external is not None:
            await self._reach().destroy(key.external)

    def close(self) -> None:
        """Free what an external signer holds."""
        if self._external is not None:
            self._external.close()

    def _reach(self) -> ExternalSigner:
        if self._external is None:
            raise StoreUnavailable("The signing key is in an HSM, but `tokens.pkcs11` is not set.")
        return self._external
