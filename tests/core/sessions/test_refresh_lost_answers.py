"""A client that never got its new refresh token, and thieves who pretend to be one."""

import asyncio
import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from authsvc.config import TokenSettings
from authsvc.errors import Reason, ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CLIENT, SECOND, Replica, World

_GRACE = 10
# Answers that may be lost in a row.
_LOSSES = 3
_STRANGER = replace(CLIENT, device_id="laptop")


async def _refreshed(
    replica: Replica, tokens: Tokens, client: ClientContext = CLIENT
) -> Tokens | Reason:
    try:
        return await replica.refresh(tokens.refresh_token, client)
    except ServiceError as error:
        return error.reason


async def _tokens(replica: Replica, tokens: Tokens, client: ClientContext = CLIENT) -> Tokens:
    refreshed = await _refreshed(replica, tokens, client)
    assert isinstance(refreshed, Tokens), refreshed
    return refreshed


async def _lost(world: World, replica: Replica) -> tuple[Tokens, Tokens]:
    """Return a token, and the one that was lost in the answer, after the grace window."""
    parent = await world.open(replica)
    lost = await replica.refresh(parent.refresh_token)
    world.clock.advance(_GRACE)
    return parent, lost


async def test_own_device_gets_the_token_after_the_lost_one(world: World) -> None:
    replica = world.replica()
    parent, lost = await _lost(world, replica)
    with capture_logs() as logs:
        recovered = await _tokens(replica, parent)
    assert recovered.refresh_token not in {parent.refresh_token, lost.refresh_token}
    assert recovered.session_id == parent.session_id
    assert (await replica.validate(parent.session_token)).active
    assert await world.revoked() == []
    details = [json.loads(event["detail"]) for event in await world.events("session.refresh")]
    assert details == [{}, {"lost_answer": True}]
    assert [line["detail"] for line in logs if line["event"] == "audit"] == details[1:]
    assert isinstance(await _refreshed(replica, recovered), Tokens)


@pytest.mark.parametrize("client", [CLIENT, _STRANGER])
@pytest.mark.parametrize("wait", [0, _GRACE])
async def test_burned_token_ends_the_session_at_any_time(
    world: World, wait: int, client: ClientContext
) -> None:
    replica = world.replica()
    parent, lost = await _lost(world, replica)
    recovered = await _tokens(replica, parent)
    world.clock.advance(wait)
    assert await _refreshed(replica, lost, client) is Reason.REFRESH_TOKEN_REUSED
    for tokens in (parent, lost, recovered):
        assert await _refreshed(replica, tokens) is Reason.REFRESH_TOKEN_INVALID
    row = await world.row(parent.session_id)
    assert row["revoke_reason"] == RevokeReason.REFRESH_TOKEN_REUSED
    assert await world.revoked() == [parent.session_id]
    assert len(await world.events("session.refresh_reuse")) == 1


async def test_burned_token_stays_burned_after_the_next_refresh(world: World) -> None:
    replica = world.replica()
    parent, lost = await _lost(world, replica)
    await _tokens(replica, await _tokens(replica, parent))
    assert await _refreshed(replica, lost) is Reason.REFRESH_TOKEN_REUSED


async def test_same_parent_within_grace_gets_the_current_pair(world: World) -> None:
    replicas = [world.replica() for _ in range(2)]
    parent, _ = await _lost(world, replicas[0])
    recovered = await _tokens(replicas[0], parent)
    world.clock.advance(_GRACE - 1)
    again = await _tokens(replicas[1], parent)
    assert again.refresh_token == recovered.refresh_token
    row = await world.row(parent.session_id)
    assert (row["refresh_counter"], row["refresh_burned"]) == (2, 1)
    # The stranger would have ended the session before the recovery, and does so after it.
    assert await _refreshed(replicas[1], parent, _STRANGER) is Reason.REFRESH_TOKEN_REUSED


async def test_a_hundred_callers_with_the_parent_burn_one_token(world: World) -> None:
    replicas = [world.replica() for _ in range(2)]
    parent, _ = await _lost(world, replicas[0])
    outcomes = await asyncio.gather(*(_tokens(replicas[turn % 2], parent) for turn in range(100)))
    assert len({outcome.refresh_token for outcome in outcomes}) == 1
    row = await world.row(parent.session_id)
    assert (row["refresh_counter"], row["refresh_burned"]) == (2, 1)
    events = [json.loads(event["detail"]) for event in await world.events("session.refresh")]
    assert events.count({"lost_answer": True}) == 1
    assert isinstance(await _refreshed(replicas[0], outcomes[0]), Tokens)


async def test_parent_and_lost_token_at_once_end_the_session(world: World) -> None:
    """Whoever comes first, the other one presents a token that was used or burned."""
    replicas = [world.replica() for _ in range(2)]
    for turn in range(25):
        parent, lost = await _lost(world, replicas[0])
        pair = (parent, lost) if turn % 2 else (lost, parent)
        outcomes = await asyncio.gather(
            *(_refreshed(replica, tokens) for replica, tokens in zip(replicas, pair, strict=True))
        )
        assert sum(isinstance(outcome, Tokens) for outcome in outcomes) == 1, outcomes
        assert Reason.REFRESH_TOKEN_REUSED in outcomes
        row = await world.row(parent.session_id)
        assert row["revoke_reason"] == RevokeReason.REFRESH_TOKEN_REUSED
        assert row["refresh_counter"] == 2


async def test_a_hundred_callers_with_parent_and_lost_token_leave_one_ended_session(
    world: World,
) -> None:
    replicas = [world.replica() for _ in range(2)]
    parent, lost = await _lost(world, replicas[0])
    outcomes = await asyncio.gather(
        *(_refreshed(replicas[turn % 2], (parent, lost)[turn // 2 % 2]) for turn in range(100))
    )
    pairs = {outcome.refresh_token for outcome in outcomes if isinstance(outcome, Tokens)}
    assert len(pairs) == 1
    assert (await world.row(parent.session_id))["refresh_counter"] == 2
    assert await world.revoked() == [parent.session_id]
    assert len(await world.events("session.refresh_reuse")) == 1


async def test_thief_with_parent_and_device_lives_until_the_owners_next_refresh(
    world: World,
) -> None:
    """And no longer, however often it refreshed in the meantime."""
    replica = world.replica()
    for refreshes in (0, 3):
        stolen, owners = await _lost(world, replica)
        thiefs = await _tokens(replica, stolen)
        for _ in range(refreshes):
            world.clock.advance(_GRACE)
            thiefs = await _tokens(replica, thiefs)
        assert (await replica.tokens.bearer(thiefs.access_token)).session_id == owners.session_id
        assert await _refreshed(replica, owners) is Reason.REFRESH_TOKEN_REUSED
        for token in (thiefs, stolen):
            assert await _refreshed(replica, token) is Reason.REFRESH_TOKEN_INVALID
        with pytest.raises(ServiceError) as caught:
            await replica.tokens.bearer(thiefs.access_token)
        assert caught.value.reason is Reason.BEARER_INVALID


@pytest.mark.parametrize("pause", [_GRACE, _GRACE - 1])
async def test_thief_that_polls_a_shared_token_is_found_out(world: World, pause: int) -> None:
    """Polling within every grace window would show it each of the owner's new pairs."""
    replica = world.replica()
    shared = await world.open(replica)
    outcomes: list[Tokens | Reason] = []
    while not outcomes or isinstance(outcomes[-1], Tokens):
        outcomes.append(await _refreshed(replica, shared))
        world.clock.advance(pause)
        assert len(outcomes) <= 3 * _LOSSES
    assert outcomes[-1] is Reason.REFRESH_TOKEN_REUSED
    pairs = {outcome.refresh_token for outcome in outcomes if isinstance(outcome, Tokens)}
    assert len(pairs) == 1 + _LOSSES


async def test_answers_may_be_lost_in_a_row(world: World) -> None:
    replica = world.replica()
    parent, _ = await _lost(world, replica)
    for _ in range(_LOSSES):
        recovered = await _tokens(replica, parent)
        world.clock.advance(_GRACE)
    assert isinstance(await _refreshed(replica, recovered), Tokens)


@pytest.mark.parametrize("client", [_STRANGER, replace(CLIENT, device_id=""), ClientContext()])
async def test_other_device_ends_the_session(world: World, client: ClientContext) -> None:
    replica = world.replica()
    parent, _ = await _lost(world, replica)
    assert await _refreshed(replica, parent, client) is Reason.REFRESH_TOKEN_REUSED
    result = await replica.validate(parent.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def test_session_without_device_recovers_nothing(world: World) -> None:
    replica = world.replica()
    parent, _ = await _lost(world, replica)
    await world.execute("UPDATE sessions SET device_id = ''")
    nobody = replace(CLIENT, device_id="")
    assert await _refreshed(replica, parent, nobody) is Reason.REFRESH_TOKEN_REUSED


async def test_used_token_means_that_no_answer_was_lost(world: World) -> None:
    replica = world.replica()
    parent, current = await _lost(world, replica)
    await _tokens(replica, current)
    world.clock.advance(_GRACE)
    assert await _refreshed(replica, parent) is Reason.REFRESH_TOKEN_REUSED


async def test_strict_setting_ends_the_session(world: World) -> None:
    strict = TokenSettings.model_validate({"refresh_lost_answer": "strict"})
    replica = world.replica(tokens=strict)
    parent, _ = await _lost(world, replica)
    assert await _refreshed(replica, parent) is Reason.REFRESH_TOKEN_REUSED


async def test_session_that_is_over_recovers_nothing(world: World) -> None:
    replica = world.replica()
    parent, _ = await _lost(world, replica)
    await world.disable(parent.user_id)
    assert await _refreshed(replica, parent) is Reason.REFRESH_TOKEN_INVALID
    assert (await world.row(parent.session_id))["refresh_counter"] == 1


async def test_lost_answer_of_a_bound_session_waits_for_its_own_network(world: World) -> None:
    """A phone often changes its address when an answer is lost: that ends nothing."""
    replica = world.replica(ip_binding="subnet")
    parent, _ = await _lost(world, replica)
    elsewhere = replace(CLIENT, ip="198.51.100.1")
    assert await _refreshed(replica, parent, elsewhere) is Reason.SESSION_BINDING_MISMATCH
    assert (await world.row(parent.session_id))["refresh_counter"] == 1
    assert isinstance(await _refreshed(replica, parent), Tokens)


async def test_locked_session_recovers_once_it_is_free(world: World) -> None:
    replica = world.replica()
    parent, _ = await _lost(world, replica)
    async with world.database.transaction() as holder:
        await holder.execute("SELECT 1 FROM sessions FOR UPDATE")
        waiting = asyncio.create_task(_refreshed(replica, parent))
        other = await world.open(replica)
        await replica.refresh(other.refresh_token)
        assert not waiting.done()
    assert isinstance(await waiting, Tokens)
    world.clock.advance(SECOND)
    assert (await world.row(parent.session_id))["refresh_burned"] == 1
