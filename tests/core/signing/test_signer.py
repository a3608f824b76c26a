import asyncio

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authsvc.core.signing import jwk
from authsvc.core.signing.jwk import ExternalSecret, SigningKey
from authsvc.core.signing.signer import Signer
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import StoreUnavailable
from authsvc.models.signing import KeyState
from authsvc.models.tokens import Claims
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.tokens import (
    CALL,
    in_state,
    keyring,
    make_session,
    token_settings,
    tokens_of,
)


class Vault:
    """An external signer in memory, which can be closed."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, SigningKey] = {}
        self.is_shut = False

    async def generate(self, algorithm: str) -> SigningKey:
        await self._reach()
        made = jwk.generate(algorithm)
        id_ = made.key_id.encode()
        self.secrets[id_] = made
        public = made.verifying_key._key.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return jwk.external(algorithm, id_, public)

    async def sign(self, algorithm: str, secret: ExternalSecret, message: bytes) -> bytes:
        await self._reach()
        assert self.secrets[secret.id].algorithm == algorithm
        return self.secrets[secret.id].sign(message)

    async def find_ids(self) -> set[bytes]:
        await self._reach()
        return set(self.secrets)

    async def destroy(self, secret: ExternalSecret) -> None:
        await self._reach()
        self.secrets.pop(secret.id, None)

    def close(self) -> None:
        self.is_shut = True

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.is_shut:
            raise StoreUnavailable("The vault is shut.")


async def load(database: Database, clock: FakeClock, signer: Signer) -> SigningKeys:
    keys = SigningKeys(
        database=database,
        keyring=keyring(),
        settings=token_settings(),
        clock=clock,
        signer=signer,
    )
    await keys.load()
    return keys


async def test_external_key_signs_and_verifies(database: Database, clock: FakeClock) -> None:
    vault = Vault()
    keys = await load(database, clock, Signer(vault, makes_external=True))
    token, _ = await tokens_of(keys, clock).issue(make_session(clock), clock.now())
    again = await load(database, clock, Signer(vault, makes_external=True))
    assert isinstance(tokens_of(again, clock).verify(token), Claims)


async def test_replicas_that_start_at_once_leave_no_unused_secret(
    database: Database, clock: FakeClock
) -> None:
    vault = Vault()
    signer = Signer(vault, makes_external=True)
    replicas = await asyncio.gather(*(load(database, clock, signer) for _ in range(4)))
    await asyncio.gather(*(keys.rotate(CALL, now=True) for keys in replicas))
    stored = {info.key_id.encode() for info in await replicas[0].list()}
    assert vault.secrets.keys() == stored


async def test_revocation_needs_no_external_signer(database: Database, clock: FakeClock) -> None:
    vault = Vault()
    keys = await load(database, clock, Signer(vault, makes_external=True))
    first, following = keys.active.key_id, await in_state(keys, KeyState.PREPARED)
    vault.is_shut = True
    await keys.revoke(CALL, first)
    assert [keys.active.key_id] == following
    await keys.revoke(CALL, keys.active.key_id)
    with pytest.raises(StoreUnavailable):
        keys.active  # noqa: B018 - reading it raises
    vault.is_shut = False
    await keys.maintain(CALL)
    assert keys.active.external is not None


async def test_secret_of_revoked_key_is_destroyed(database: Database, clock: FakeClock) -> None:
    vault = Vault()
    keys = await load(database, clock, Signer(vault, makes_external=True))
    revoked = keys.active.key_id
    await keys.revoke(CALL, revoked)
    assert revoked.encode() not in vault.secrets
    assert len(vault.secrets) == 2


async def test_external_key_needs_its_signer(database: Database, clock: FakeClock) -> None:
    keys = await load(database, clock, Signer(Vault(), makes_external=True))
    token, _ = await tokens_of(keys, clock).issue(make_session(clock), clock.now())
    without = await load(database, clock, Signer())
    assert isinstance(tokens_of(without, clock).verify(token), Claims)
    with pytest.raises(StoreUnavailable, match="HSM"):
        await tokens_of(without, clock).issue(make_session(clock), clock.now())


async def test_secrets_that_no_stored_key_names_are_found(
    database: Database, clock: FakeClock
) -> None:
    vault = Vault()
    keys = await load(database, clock, Signer(vault, makes_external=True))
    await keys.rotate(CALL, now=True)
    assert await keys.find_orphans() == []
    orphan = await vault.generate("ES256")
    assert orphan.external is not None
    assert await keys.find_orphans() == [orphan.external.id.hex()]
    # With a key that can't be opened, nothing is known of its secret.
    async with database.connection() as connection:
        await connection.execute("UPDATE signing_keys SET sealed_key = 'x' WHERE state = 'retired'")
    assert await keys.find_orphans() == []
    vault.is_shut = True
    with pytest.raises(StoreUnavailable):
        await keys.find_orphans()
    assert await (await load(database, clock, Signer())).find_orphans() == []
