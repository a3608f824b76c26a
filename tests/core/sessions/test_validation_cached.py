"""Sessions from the cache: when it may be used, and what it must never contain."""

import asyncio

import pytest

from authsvc.core.sessions.validation import SessionCheck
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import ClientContext
from authsvc.models.revocations import Revocation
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CALL, DAY, SECOND, HeldDatabase, Replica, World


async def test_cached_session_costs_no_query(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    await world.database.close()
    assert (await replica.validate(tokens.session_token)).active
    result = await replica.validate(tokens.session_token)
    assert result.session is (await replica.validate(tokens.session_token)).session


async def test_memo_lasts_as_long_as_the_session_it_is_derived_from(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    first = await replica.validate(tokens.session_token)
    assert first.memo is not None
    first.memo.value = "derived"
    again = await replica.validate(tokens.session_token)
    assert (again.memo, again.session) == (first.memo, first.session)
    world.clock.advance(60 * SECOND)
    used = await replica.validate(tokens.session_token)
    assert used.memo is not None
    assert used.memo.value is None
    used.memo.value = "derived"
    await replica.sessions.ending.revoke(CALL, tokens.session_id)
    assert (await replica.validate(tokens.session_token)).memo is None
    assert not await _is_cached(replica, tokens)


async def _is_cached(replica: Replica, tokens: Tokens) -> bool:
    """Return whether the replica has the session in its cache."""
    return replica.sessions.validation.find_cached(tokens.session_id) is not None


async def test_inactive_session_is_not_cached(world: World) -> None:
    replica = world.replica()
    disabled, expired = await world.open(replica), await world.open(replica)
    revoked = await world.open(replica)
    await world.disable(disabled.user_id)
    await replica.sessions.ending.revoke(CALL, revoked.session_id)
    for tokens in (disabled, revoked):
        await replica.validate(tokens.session_token)
        await replica.sessions.validation.find(tokens.session_id)
        assert not await _is_cached(replica, tokens)
    world.clock.advance(30 * DAY)
    await replica.sessions.validation.find(expired.session_id)
    assert not await _is_cached(replica, expired)


async def test_cache_can_be_disabled(world: World) -> None:
    here, there = world.replica(cache_size=0), world.replica()
    tokens = await world.open(here)
    assert (await here.validate(tokens.session_token)).active
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def test_cache_is_bypassed_while_it_may_be_stale(world: World) -> None:
    fresh = True
    here, there = world.replica(is_fresh=lambda: fresh), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    await here.sessions.validation.find(tokens.session_id)
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    # The replica was not notified: its answer shows that it used its cache.
    assert (await here.validate(tokens.session_token)).active
    assert await _is_cached(here, tokens)
    fresh = False
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED
    assert not await _is_cached(here, tokens)


async def test_strict_validation_never_uses_cache(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    result = await here.validate(tokens.session_token, strict=True)
    assert result.reason is InactiveReason.SESSION_REVOKED
    found = await here.sessions.validation.find(tokens.session_id, strict=True)
    assert found is not None
    assert found.revoke_time == world.clock.now()


async def test_strict_validation_does_not_join_earlier_lookup(
    world: World,
) -> None:
    held = HeldDatabase(world.database)
    here, there = world.replica(database=held), world.replica()
    tokens = await world.open(there)
    early = asyncio.create_task(here.validate(tokens.session_token, strict=True))
    await held.has_read.wait()
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    late = asyncio.create_task(here.validate(tokens.session_token, strict=True))
    held.go_on.set()
    assert (await early).active
    assert (await late).reason is InactiveReason.SESSION_REVOKED


def _announce(replica: Replica, tokens: Tokens, kind: str) -> None:
    if kind == "session":
        replica.sessions.cache.on_revocation(Revocation("session", str(tokens.session_id)))
    elif kind == "user":
        replica.sessions.cache.on_revocation(Revocation("user", str(tokens.user_id)))
    else:
        replica.sessions.cache.drop_all()


_KINDS = ["session", "user", "gap"]


@pytest.mark.parametrize("kind", _KINDS)
async def test_revocation_event_evicts_cached_sessions(world: World, kind: str) -> None:
    here, there = world.replica(), world.replica()
    tokens, other = await world.open(here), await world.open(here)
    await here.validate(tokens.session_token)
    await here.validate(other.session_token)
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    _announce(here, tokens, kind)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED
    assert await _is_cached(here, other) is (kind != "gap")


async def test_key_revocation_evicts_no_session(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    replica.sessions.cache.on_revocation(Revocation("key", "some-key"))
    assert await _is_cached(replica, tokens)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("by", ["token", "id", "extension"])
async def test_row_read_before_revocation_is_not_cached_after_event(
    world: World, kind: str, by: str
) -> None:
    held = HeldDatabase(world.database)
    here, there = world.replica(database=held), world.replica()
    tokens = await world.open(there)
    if by == "extension":
        reading = asyncio.create_task(_extend(here, tokens))
    elif by == "id":
        reading = asyncio.create_task(_find(here, tokens))
    else:
        reading = asyncio.create_task(_validate(here, tokens))
    await held.has_read.wait()
    await there.sessions.ending.revoke(CALL, tokens.session_id)
    _announce(here, tokens, kind)
    held.go_on.set()
    # It was read while the session was active, so this result is right; caching it would not be.
    assert await reading
    assert not await _is_cached(here, tokens)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def _validate(replica: Replica, tokens: Tokens) -> bool:
    return (await replica.validate(tokens.session_token)).active


async def _find(replica: Replica, tokens: Tokens) -> bool:
    return await replica.sessions.validation.find(tokens.session_id) is not None


async def _extend(replica: Replica, tokens: Tokens) -> bool:
    return await replica.sessions.validation._reader.extend(tokens.session_id) is not None


async def test_revocation_of_other_sessions_does_not_prevent_caching(
    world: World,
) -> None:
    held = HeldDatabase(world.database)
    here, there = world.replica(database=held), world.replica()
    tokens, other = await world.open(there), await world.open(there)
    reading = asyncio.create_task(_validate(here, tokens))
    await held.has_read.wait()
    _announce(here, other, "session")
    held.go_on.set()
    await reading
    assert await _is_cached(here, tokens)


async def test_local_revocation_evicts_immediately(world: World) -> None:
    replica = world.replica()
    for end in ("revoke", "logout", "reuse"):
        tokens = await world.open(replica)
        await replica.validate(tokens.session_token)
        if end == "revoke":
            await replica.sessions.ending.revoke(CALL, tokens.session_id)
        elif end == "logout":
            await replica.sessions.ending.log_out(CALL, tokens.refresh_token)
        else:
            await replica.refresh(tokens.refresh_token)
            await replica.validate(tokens.session_token)
            world.clock.advance(DAY)
            with pytest.raises(Exception, match="already used"):
                await replica.refresh(tokens.refresh_token, ClientContext())
        result = await replica.validate(tokens.session_token)
        assert result.reason is InactiveReason.SESSION_REVOKED


async def test_no_session_is_active_without_database(world: World) -> None:
    fresh = True
    replica = world.replica(is_fresh=lambda: fresh)
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    await world.database.close()
    with pytest.raises(StoreUnavailable):
        await replica.validate(tokens.session_token, strict=True)
    fresh = False
    with pytest.raises(StoreUnavailable):
        await replica.validate(tokens.session_token)


async def test_concurrent_cache_misses_share_one_statement(world: World) -> None:
    held = HeldDatabase(world.database)
    here, there = world.replica(database=held), world.replica(max_per_user=1_000)
    user_id = await world.add_user()
    opened = [await world.open(there, user_id) for _ in range(40)]
    first = asyncio.create_task(_validate(here, opened[0]))
    await held.has_read.wait()
    rest = [asyncio.create_task(_validate(here, tokens)) for tokens in opened]
    await asyncio.sleep(0)
    borrowed = held.borrowed
    held.go_on.set()
    assert all(await asyncio.gather(first, *rest))
    assert held.borrowed == borrowed + 1


async def test_session_that_cannot_be_extended_stays_cached(world: World) -> None:
    replica = world.replica(absolute_lifetime="1d")
    tokens = await world.open(replica)
    world.clock.advance(0.9 * DAY)
    assert (await replica.validate(tokens.session_token)).active
    await world.database.close()
    assert (await replica.validate(tokens.session_token)).active


async def test_access_token_of_cached_session_costs_no_query(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    found = await replica.sessions.validation.find(tokens.session_id)
    await world.database.close()
    assert await replica.sessions.validation.find(tokens.session_id) is found
    with pytest.raises(StoreUnavailable):
        await replica.sessions.validation.find(tokens.session_id, strict=True)


async def test_checks_use_cache_by_default(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    checks = [SessionCheck(tokens.session_token)]
    assert (await replica.sessions.validation.validate_many(checks))[0].active
    await world.database.close()
    assert (await replica.sessions.validation.validate_many(checks))[0].active
