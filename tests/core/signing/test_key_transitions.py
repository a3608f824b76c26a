"""Rotation of signing keys: by one replica and by many, on request and when due."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest
from structlog.testing import capture_logs

from authsvc.core.audit.recording import AuditType
from authsvc.core.signing import signing_keys
from authsvc.core.signing.key_transitions import PROPAGATION_GRACE
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.revocations import Revocation
from authsvc.models.signing import KeyState
from authsvc.models.tokens import Claims
from authsvc.store import token_validities
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.sessions import HeldDatabase
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

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


# Rotation


async def test_old_key_verifies_until_its_last_token_expires(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    tokens, old = tokens_of(keys, clock), keys.active.key_id
    token, expire_time = await tokens.issue(make_session(clock), clock.now())
    clock.advance(SECOND)
    new = (await keys.rotate(CALL, now=True)).key_id
    assert keys.active.key_id == new != old
    assert isinstance(tokens.verify(token), Claims)
    (following,) = await in_state(keys, KeyState.PREPARED)
    assert set(published(keys)) == {following, new, old}
    assert await audited(database, AuditType.KEY_ROTATE) == [("system", old), (CALL.caller, new)]

    clock.advance(expire_time - clock.now() - SECOND)
    await keys.maintain(CALL)
    assert isinstance(tokens.verify(token), Claims)
    clock.advance(5 * MINUTE)
    await keys.maintain(CALL)
    assert keys.find(old) is None
    assert set(published(keys)) == {following, new}
    assert {info.key_id for info in await keys.list()} == {following, new}


async def test_old_key_outlives_service_tokens(database: Database, clock: FakeClock) -> None:
    keys = await load_keys(database, clock, access_lifetime="1m", service_lifetime="2h")
    old = keys.active.key_id
    await keys.rotate(CALL, now=True)
    clock.advance(2 * HOUR)
    await keys.maintain(CALL)
    assert keys.find(old) is not None
    clock.advance(5 * MINUTE)
    await keys.maintain(CALL)
    assert keys.find(old) is None


async def test_stale_replica_signs_with_old_key_and_is_accepted(
    database: Database, clock: FakeClock
) -> None:
    keys, deaf = await load_keys(database, clock), await load_keys(database, clock)
    await keys.rotate(CALL, now=True)
    clock.advance(30)
    token, expire_time = await tokens_of(deaf, clock).issue(make_session(clock), clock.now())
    clock.advance(expire_time - clock.now() - SECOND)
    await keys.maintain(CALL)
    assert isinstance(tokens_of(keys, clock).verify(token), Claims)


async def test_concurrent_rotations_leave_one_active_key(
    database: Database, clock: FakeClock
) -> None:
    replicas = [await load_keys(database, clock) for _ in range(10)]
    await asyncio.gather(*(keys.rotate(CALL, now=True) for keys in replicas))
    (active,) = await in_state(replicas[0], KeyState.ACTIVE)
    for keys in replicas:
        await keys.refresh()
    assert {keys.active.key_id for keys in replicas} == {active}
    rows = await replicas[0].list()
    assert len(rows) - 1 == len(await audited(database, AuditType.KEY_ROTATE))
    assert len(await in_state(replicas[0], KeyState.PREPARED)) == 1


async def test_rotation_without_keys_creates_first(database: Database, clock: FakeClock) -> None:
    keys = SigningKeys(database=database, keyring=keyring(), settings=token_settings(), clock=clock)
    assert (await keys.rotate(CALL)).key_id == keys.active.key_id


async def test_rotation_waits_until_next_key_was_published_for_the_lead(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    first, (following,) = keys.active.key_id, await in_state(keys, KeyState.PREPARED)
    when = clock.now() + HOUR
    clock.advance(10 * MINUTE)
    for _ in range(3):
        key = await keys.rotate(CALL)
        assert (key.key_id, key.state, key.activate_time) == (following, KeyState.PREPARED, when)
        assert keys.active.key_id == first
    (shown,) = [info for info in await keys.list() if info.state is KeyState.PREPARED]
    assert shown.activate_time == when
    requested = await audited(database, AuditType.KEY_REQUEST_ROTATION)
    assert requested == [(CALL.caller, first)]

    clock.advance(when - clock.now() - timedelta(microseconds=1))
    await keys.maintain(CALL)
    assert keys.active.key_id == first
    clock.advance(timedelta(microseconds=1))
    await keys.maintain(CALL)
    assert keys.active.key_id == following
    # The request is fulfilled: the key after that waits for the end of its interval.
    clock.advance(2 * HOUR)
    await keys.maintain(CALL)
    assert keys.active.key_id == following


async def test_key_published_for_the_lead_signs_as_soon_as_asked(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    (following,) = await in_state(keys, KeyState.PREPARED)
    clock.advance(HOUR)
    key = await keys.rotate(CALL)
    assert (key.key_id, key.state) == (following, KeyState.ACTIVE)
    assert keys.active.key_id == following
    assert await audited(database, AuditType.KEY_REQUEST_ROTATION) == []
    assert (await keys.rotate(CALL, key.key_id)).activate_time == clock.now() + HOUR


async def test_now_does_not_wait_and_says_until_when_verifiers_refuse(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    (following,) = await in_state(keys, KeyState.PREPARED)
    key = await keys.rotate(CALL, now=True)
    assert (key.key_id, key.state, key.activate_time) == (following, KeyState.ACTIVE, clock.now())
    until = keys.refused_until(key)
    assert until is not None
    clock.advance(until - clock.now())
    assert keys.refused_until(key) is None


async def test_rotation_without_prepared_key_waits_for_one(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    (following,) = await in_state(keys, KeyState.PREPARED)
    clock.advance(HOUR)
    await keys.revoke(CALL, following)
    key = await keys.rotate(CALL)
    assert (key.state, key.activate_time) == (KeyState.PREPARED, clock.now() + HOUR)
    assert key.key_id != following


async def test_requested_rotation_survives_loss_of_the_prepared_key(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    key = await keys.rotate(CALL)
    clock.advance(HOUR / 2)
    await keys.revoke(CALL, key.key_id)
    await keys.maintain(CALL)
    clock.advance(HOUR)
    first = keys.active.key_id
    await keys.maintain(CALL)
    assert keys.active.key_id not in {first, key.key_id}


async def test_key_removed_during_rotation_is_not_replaced_by_unpublished_one(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    first, (following,) = keys.active.key_id, await in_state(keys, KeyState.PREPARED)
    clock.advance(HOUR)
    await keys._transitions.remove_prepared(following)
    await keys._transitions.replace(CALL, first)
    assert await in_state(keys, KeyState.ACTIVE) == [first]
    assert await in_state(keys, KeyState.RETIRED) == []


# Maintenance


async def test_key_is_published_ahead_and_activated_on_time(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    first = keys.active.key_id
    (prepared,) = await in_state(keys, KeyState.PREPARED)
    assert set(published(keys)) == {first, prepared}
    assert keys.find(prepared) is not None
    clock.advance(30 * DAY - SECOND)
    await keys.maintain(CALL)
    assert keys.active.key_id == first
    clock.advance(SECOND)
    await keys.maintain(CALL)
    assert keys.active.key_id == prepared
    assert keys.find(first) is not None
    assert (await audited(database, AuditType.KEY_ROTATE))[-1] == (CALL.caller, prepared)


async def test_late_key_is_still_published_for_full_lead_time(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    first, (prepared,) = keys.active.key_id, await in_state(keys, KeyState.PREPARED)
    await keys.revoke(CALL, prepared)
    clock.advance(90 * DAY)
    await keys.maintain(CALL)
    clock.advance(HOUR - SECOND)
    await keys.maintain(CALL)
    assert keys.active.key_id == first
    clock.advance(SECOND)
    await keys.maintain(CALL)
    assert keys.active.key_id != first


@pytest.mark.slow
async def test_concurrent_maintenance_acts_once(database: Database, clock: FakeClock) -> None:
    replicas = [await load_keys(database, clock) for _ in range(8)]
    for _ in range(3):
        for step in (30 * DAY, 2 * HOUR):
            clock.advance(step)
            await asyncio.gather(*(keys.maintain(CALL) for keys in replicas))
            assert len(await in_state(replicas[0], KeyState.ACTIVE)) == 1
    assert len(await audited(database, AuditType.KEY_ROTATE)) == 4
    assert len(await replicas[0].list()) == 2


@pytest.mark.parametrize(
    ("lead", "cached"),
    [("1h", 5 * MINUTE), ("10m", 5 * MINUTE), ("6m", 3 * MINUTE), ("2s", SECOND)],
)
async def test_published_keys_may_be_cached_for_half_the_lead_at_most(
    lead: str, cached: timedelta, database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock, key_publish_lead=lead)
    assert keys.jwks_expire_time() == clock.now() + cached


async def test_keys_that_could_not_be_read_again_are_cached_for_less(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    # Whatever was published since then signs an hour later at the earliest.
    clock.advance(43 * MINUTE)
    assert keys.jwks_expire_time() == clock.now() + 2 * MINUTE
    clock.advance(10 * MINUTE)
    assert keys.jwks_expire_time() == clock.now()
    await keys.refresh()
    assert keys.jwks_expire_time() == clock.now() + 5 * MINUTE


async def test_background_refresh_handles_gaps_and_survives_outage(
    database: Database, clock: FakeClock
) -> None:
    keys, elsewhere = await load_keys(database, clock), await load_keys(database, clock)
    with capture_logs() as logs:
        work = asyncio.create_task(keys.run())
        new = (await elsewhere.rotate(CALL, now=True)).key_id
        keys.on_gap()
        await until(lambda: keys.active.key_id == new)
        await database.close()
        for failures in (1, 2):
            keys.on_gap()
            await until(partial(_said, logs, failures))
        failed = [line for line in logs if line["event"] == "signing_key_maintenance_failed"]
        assert all(line["cause"] for line in failed)
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _said(logs: Sequence[Mapping[str, object]], times: int) -> bool:
    return sum(line["event"] == "signing_key_maintenance_failed" for line in logs) >= times


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)


async def test_background_refresh_reads_keys_periodically(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise a replica might sign with a retired key after its last token is thought to expire.
    assert signing_keys._POLL < PROPAGATION_GRACE
    monkeypatch.setattr(signing_keys, "_POLL", timedelta(milliseconds=1))
    keys, elsewhere = await load_keys(database, clock), await load_keys(database, clock)
    async with running(keys):
        for _ in range(2):
            new = (await elsewhere.rotate(CALL, now=True)).key_id
            await until(lambda: keys.active.key_id == new)  # noqa: B023 - it ends before the next


async def test_background_refresh_activates_key_when_it_is_due(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not only at the next poll, which is an hour away here.
    monkeypatch.setattr(signing_keys, "_POLL", HOUR)
    keys = await load_keys(database, clock, key_publish_lead="8h")
    planned = await keys.rotate(CALL)
    clock.advance(timedelta(hours=8) - timedelta(milliseconds=200))
    async with running(keys):
        keys.on_gap()
        await until(keys.is_fresh)
        clock.advance(SECOND)
        await until(lambda: keys.active.key_id == planned.key_id)


async def test_background_refresh_waits_until_notified(
    database: Database, clock: FakeClock
) -> None:
    counting = HeldDatabase(database)
    counting.go_on.set()
    keys = await load_keys(counting, clock)
    async with running(keys):
        for notify in (keys.on_gap, keys.on_gap, lambda: None):
            notify()
            await until(keys.is_fresh)
        borrowed = counting.borrowed
        # It could read the keys as often meanwhile.
        for _ in range(20):
            async with database.connection() as connection:
                await connection.fetchval("SELECT 1")
        assert counting.borrowed == borrowed


@pytest.mark.parametrize("longest", ["access_lifetime", "service_lifetime", "session_key_lifetime"])
async def test_retired_key_expires_with_its_last_possible_token(
    longest: str, database: Database, clock: FakeClock
) -> None:
    lifetimes = {
        "access_lifetime": "1h",
        "service_lifetime": "1h",
        "session_key_lifetime": "1h",
        longest: "2h",
    }
    keys = await load_keys(database, clock, **lifetimes, clock_skew="5s")
    old = keys.active.key_id
    clock.advance(SECOND)
    await keys.rotate(CALL, now=True)
    end = clock.now() + 2 * HOUR + 5 * SECOND + MINUTE
    assert {info.key_id: info.expire_time for info in await keys.list()}[old] == end
    clock.advance(end - clock.now() - SECOND)
    await keys.refresh()
    assert keys.find(old) is not None
    clock.advance(SECOND)
    await keys.refresh()
    assert keys.find(old) is None
    await keys.maintain(CALL)
    assert await in_state(keys, KeyState.RETIRED) == []


async def test_retired_key_outlives_tokens_from_before_a_lifetime_was_lowered(
    database: Database, clock: FakeClock
) -> None:
    async with database.connection() as connection:
        await token_validities.note(connection, 120 * HOUR, clock.now())
    keys = await load_keys(database, clock, access_lifetime="1h")
    old = keys.active.key_id
    clock.advance(HOUR)
    await keys.rotate(CALL, now=True)
    assert {info.key_id: info.expire_time for info in await keys.list()}[old] == (
        clock.now() + 120 * HOUR
    )


@asynccontextmanager
async def running(keys: SigningKeys) -> AsyncIterator[None]:
    """Maintain the keys in the background."""
    work = asyncio.create_task(keys.run())
    try:
        yield
        assert not work.done()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_key_is_due_one_interval_after_its_activation(
    database: Database, clock: FakeClock
) -> None:
    keys = await load_keys(database, clock)
    for _ in range(2):
        first, (prepared,) = keys.active.key_id, await in_state(keys, KeyState.PREPARED)
        clock.advance(30 * DAY - SECOND)
        await keys.maintain(CALL)
        assert keys.active.key_id == first
        clock.advance(SECOND)
        await keys.maintain(CALL)
        assert keys.active.key_id == prepared


async def test_revocation_wakes_background_refresh(database: Database, clock: FakeClock) -> None:
    keys, elsewhere = await load_keys(database, clock), await load_keys(database, clock)
    old = keys.active.key_id
    async with running(keys):
        keys.on_gap()
        await until(keys.is_fresh)
        await elsewhere.revoke(CALL, old)
        keys.on_revocation(Revocation("key", old))
        await until(lambda: set(published(keys)) == set(published(elsewhere)))
        assert keys.active.key_id == elsewhere.active.key_id


async def test_maintenance_without_keys_creates_first(database: Database, clock: FakeClock) -> None:
    keys = SigningKeys(database=database, keyring=keyring(), settings=token_settings(), clock=clock)
    await keys.maintain(CALL)
    assert await in_state(keys, KeyState.ACTIVE) == [keys.active.key_id]
