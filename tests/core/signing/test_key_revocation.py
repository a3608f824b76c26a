"""Revocation of signing keys, and what a replica learns about the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from authsvc.core.audit.recording import AuditType
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import NotFound, StoreUnavailable
from authsvc.models.revocations import Revocation
from authsvc.models.signing import KeyState
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.tokens import (
    CALL,
    audited,
    in_state,
    keyring,
    load_keys,
    make_session,
    published,
    token_settings,
    tokens_of,
)

HOUR = timedelta(hours=1)


# Revocation


async def test_revoked_key_is_invalid_at_once_and_another_signs(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    tokens, old = tokens_of(keys, clock), keys.active.key_id
    token, _ = await tokens.issue(make_session(clock), clock.now())
    assert (await keys.revoke(CALL, old)).is_new
    assert tokens.verify(token) is InactiveReason.SIGNATURE_INVALID
    assert keys.active.key_id != old
    assert old not in published(keys)
    assert isinstance(
        tokens.verify((await tokens.issue(make_session(clock), clock.now()))[0]), Claims
    )
    assert await audited(database, AuditType.KEY_REVOKE) == [(CALL.caller, old)]
    async with database.connection() as conn:
        assert await conn.fetchval("SELECT key_id FROM revocations") == old


async def test_prepared_key_takes_over_from_a_revoked_one(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    (prepared,) = await in_state(keys, KeyState.PREPARED)
    clock.advance(HOUR)
    await keys.revoke(CALL, keys.active.key_id)
    assert keys.active.key_id == prepared
    assert keys.refused_until(keys.active_info()) is None
    # Its own successor is published at once, but verifiers that have cached the keys lack it.
    (following,) = await in_state(keys, KeyState.PREPARED)
    assert following in published(keys)
    await keys.revoke(CALL, prepared)
    assert keys.active.key_id == following
    assert keys.refused_until(keys.active_info()) is not None


async def test_retired_and_prepared_keys_can_be_revoked_too(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock, access_lifetime="60d")
    retired = keys.active.key_id
    active = (await keys.rotate(CALL, now=True)).key_id
    (prepared,) = await in_state(keys, KeyState.PREPARED)
    for key_id in (retired, prepared):
        assert keys.find(key_id) is not None
        assert (await keys.revoke(CALL, key_id)).is_new
        assert keys.find(key_id) is None
        assert keys.active.key_id == active


async def test_retired_key_becomes_invalid_on_revocation(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    tokens, retired = tokens_of(keys, clock), keys.active.key_id
    token, _ = await tokens.issue(make_session(clock), clock.now())
    active = (await keys.rotate(CALL, now=True)).key_id
    assert (await keys.revoke(CALL, retired)).is_new
    assert tokens.verify(token) is InactiveReason.SIGNATURE_INVALID
    assert keys.active.key_id == active


async def test_revoking_twice_does_nothing_and_unknown_key_is_an_error(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    old = keys.active.key_id
    outcomes = await asyncio.gather(*(keys.revoke(CALL, old) for _ in range(5)))
    assert sorted(outcome.is_new for outcome in outcomes) == [False] * 4 + [True]
    for attempt in (keys.revoke(CALL, "unknown"), keys.rotate(CALL, "unknown")):
        with pytest.raises(NotFound, match="signing key"):
            await attempt
    assert len(await audited(database, AuditType.KEY_REVOKE)) == 1
    assert len(await in_state(keys, KeyState.ACTIVE)) == 1


async def test_concurrent_revoke_and_rotate_leave_one_active_key(
    database: Database, clock: FakeClock
) -> None:
    replicas = [await load_keys(database, clock) for _ in range(6)]
    old = replicas[0].active.key_id
    work = [
        keys.rotate(CALL, now=True) if index % 2 else keys.revoke(CALL, old)
        for index, keys in enumerate(replicas)
    ]
    await asyncio.gather(*work)
    assert len(await in_state(replicas[0], KeyState.ACTIVE)) == 1
    assert old in await in_state(replicas[0], KeyState.REVOKED)


async def test_revocation_event_takes_effect_before_any_read(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    key_id = keys.active.key_id
    keys.on_revocation(Revocation("session", key_id))
    assert keys.find(key_id) is not None
    keys.on_revocation(Revocation("key", key_id))
    assert keys.find(key_id) is None
    assert published(keys) == await in_state(keys, KeyState.PREPARED)
    with pytest.raises(StoreUnavailable):
        _ = keys.active


async def test_read_in_progress_does_not_restore_revoked_key(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    key_id = keys.active.key_id
    async with _read_held_up(database, keys):
        keys.on_revocation(Revocation("key", key_id))
    assert keys.find(key_id) is None


async def test_read_in_progress_does_not_clear_gap(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock)
    assert keys.is_fresh()
    async with _read_held_up(database, keys):
        keys.on_gap()
        assert not keys.is_fresh()
    assert not keys.is_fresh()
    await keys.refresh()
    assert keys.is_fresh()


@asynccontextmanager
async def _read_held_up(database: Database, keys: SigningKeys) -> AsyncIterator[None]:
    """Start reading the keys, and let the read complete when the block ends."""
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """
    async with database.transaction() as conn, database.connection() as observer:
        await conn.execute("LOCK TABLE signing_keys IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(keys.refresh())
        async with asyncio.timeout(30):
            while not await observer.fetchval(waiting):  # noqa: ASYNC110 - only polling shows it
                await asyncio.sleep(0.01)
        yield
    await reading


# Changes by another replica


@pytest.mark.slow
async def test_only_plausible_unknown_key_ids_are_looked_up(
    database: Database, clock: FakeClock
) -> None:
    keys, elsewhere = await load_keys(database, clock), await load_keys(database, clock)
    await elsewhere.rotate(CALL, now=True)
    (new,) = await in_state(elsewhere, KeyState.PREPARED)
    assert await keys.learn((new,))
    assert not await keys.learn(("A" * 43,))
    await database.close()
    assert not await keys.learn((keys.active.key_id,))
    assert not await keys.learn(("short",))
    assert not await keys.learn(("A" * 44,))
    with pytest.raises(StoreUnavailable):
        await keys.learn(("A" * 43,))


class _Interrupted(SigningKeys):
    """Can't read the keys any more once `cut` is set."""

    cut = False

    async def refresh(self) -> None:
        if self.cut:
            raise StoreUnavailable("The database did not answer.")
        await super().refresh()


async def test_revoked_key_is_distrusted_even_if_keys_cannot_be_read(
    database: Database, clock: FakeClock
) -> None:
    keys = _Interrupted(
        database=database, keyring=keyring(), settings=token_settings(), clock=clock
    )
    await keys.load()
    key_id = keys.active.key_id
    keys.cut = True
    with pytest.raises(StoreUnavailable):
        await keys.revoke(CALL, key_id)
    assert keys.find(key_id) is None
