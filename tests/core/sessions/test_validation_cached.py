"""Sessions from the cache: when it may answer, and what it must never come to hold."""

import asyncio

import pytest

from authsvc.core.revocations.listener import Revocation
from authsvc.errors import StoreUnavailable
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CALL, DAY, HeldDatabase, Replica, World


async def test_a_cached_session_costs_no_query(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    await world.database.close()
    assert (await replica.validate(tokens.session_token)).active
    result = await replica.validate(tokens.session_token)
    assert result.session is (await replica.validate(tokens.session_token)).session


async def _is_cached(replica: Replica, tokens: Tokens) -> bool:
    """Return whether the replica has the session in its cache."""
    return replica.sessions.find_cached(tokens.session_id) is not None


async def test_what_is_not_active_is_not_cached(world: World) -> None:
    replica = world.replica()
    disabled, expired = await world.open(replica), await world.open(replica)
    revoked = await world.open(replica)
    await world.disable(disabled.user_id)
    await replica.sessions.revoke(CALL, revoked.session_id)
    for tokens in (disabled, revoked):
        await replica.validate(tokens.session_token)
        await replica.sessions.find(tokens.session_id)
        assert not await _is_cached(replica, tokens)
    world.clock.advance(30 * DAY)
    await replica.sessions.find(expired.session_id)
    assert not await _is_cached(replica, expired)


async def test_the_cache_can_be_switched_off(world: World) -> None:
    here, there = world.replica(cache_size=0), world.replica()
    tokens = await world.open(here)
    assert (await here.validate(tokens.session_token)).active
    await there.sessions.revoke(CALL, tokens.session_id)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def test_the_cache_is_not_used_while_it_may_be_stale(world: World) -> None:
    fresh = True
    here, there = world.replica(is_fresh=lambda: fresh), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    await here.sessions.find(tokens.session_id)
    await there.sessions.revoke(CALL, tokens.session_id)
    # Nobody told the replica: what it says now shows that it used its cache.
    assert (await here.validate(tokens.session_token)).active
    assert await _is_cached(here, tokens)
    fresh = False
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED
    assert not await _is_cached(here, tokens)


async def test_strict_never_uses_the_cache(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    await there.sessions.revoke(CALL, tokens.session_id)
    result = await here.validate(tokens.session_token, strict=True)
    assert result.reason is InactiveReason.SESSION_REVOKED
    found = await here.sessions.find(tokens.session_id, strict=True)
    assert found is not None
    assert found.revoke_time == world.clock.now()


async def test_a_strict_question_is_not_answered_by_a_look_up_that_began_before_it(
    world: World,
) -> None:
    held = HeldDatabase(world.database)
    here, there = world.replica(database=held), world.replica()
    tokens = await world.open(there)
    early = asyncio.create_task(here.validate(tokens.session_token, strict=True))
    await held.has_read.wait()
    await there.sessions.revoke(CALL, tokens.session_id)
    late = asyncio.create_task(here.validate(tokens.session_token, strict=True))
    held.go_on.set()
    assert (await early).active
    assert (await late).reason is InactiveReason.SESSION_REVOKED


def _announce(replica: Replica, tokens: Tokens, kind: str) -> None:
    if kind == "session":
        replica.sessions.on_revocation(Revocation("session", str(tokens.session_id)))
    elif kind == "user":
        replica.sessions.on_revocation(Revocation("user", str(tokens.user_id)))
    else:
        replica.sessions.on_gap()


_KINDS = ["session", "user", "gap"]


@pytest.mark.parametrize("kind", _KINDS)
async def test_an_announcement_drops_what_is_cached(world: World, kind: str) -> None:
    here, there = world.replica(), world.replica()
    tokens, other = await world.open(here), await world.open(here)
    await here.validate(tokens.session_token)
    await here.validate(other.session_token)
    await there.sessions.revoke(CALL, tokens.session_id)
    _announce(here, tokens, kind)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED
    assert await _is_cached(here, other) is (kind != "gap")


async def test_the_revocation_of_a_key_drops_no_session(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    replica.sessions.on_revocation(Revocation("key", "some-key"))
    assert await _is_cached(replica, tokens)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("by", ["token", "id", "extension"])
async def test_a_row_read_before_a_revocation_is_not_cached_after_its_announcement(
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
    await there.sessions.revoke(CALL, tokens.session_id)
    _announce(here, tokens, kind)
    held.go_on.set()
    # It was read while the session was active, so this answer is right; to keep it would not be.
    assert await reading
    assert not await _is_cached(here, tokens)
    result = await here.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def _validate(replica: Replica, tokens: Tokens) -> bool:
    return (await replica.validate(tokens.session_token)).active


async def _find(replica: Replica, tokens: Tokens) -> bool:
    return await replica.sessions.find(tokens.session_id) is not None


async def _extend(replica: Replica, tokens: Tokens) -> bool:
    return await replica.sessions._validation._reader.extend(tokens.session_id) is not None


async def test_an_announcement_about_others_does_not_keep_a_row_from_being_cached(
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


async def test_what_a_replica_revokes_itself_it_forgets_at_once(world: World) -> None:
    replica = world.replica()
    for end in ("revoke", "logout", "reuse"):
        tokens = await world.open(replica)
        await replica.validate(tokens.session_token)
        if end == "revoke":
            await replica.sessions.revoke(CALL, tokens.session_id)
        elif end == "logout":
            await replica.sessions.logout(CALL, tokens.refresh_token)
        else:
            await replica.refresh(tokens.refresh_token)
            await replica.validate(tokens.session_token)
            world.clock.advance(DAY)
            with pytest.raises(Exception, match="used before"):
                await replica.refresh(tokens.refresh_token)
        result = await replica.validate(tokens.session_token)
        assert result.reason is InactiveReason.SESSION_REVOKED


async def test_without_the_database_nothing_is_taken_for_active(world: World) -> None:
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


async def test_misses_at_the_same_time_share_a_statement(world: World) -> None:
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
