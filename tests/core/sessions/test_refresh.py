"""Refresh of tokens: single use, a grace window for retries, detection of theft."""

import asyncio
import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from authsvc.config import TokenSettings
from authsvc.core.lib.ids import uuid7
from authsvc.core.revocations.user_tokens import revoke_tokens
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.errors import Reason, ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import InactiveReason, Tokens
from tests.support.sessions import CALL, CLIENT, DAY, SECOND, Replica, World
from tests.support.tokens import keyring

_CODEC = RefreshTokenCodec(keyring().derive("refresh-token"))


def _grace(duration: str) -> TokenSettings:
    """Return settings with this grace window, after which every replaced token is a stolen one."""
    return TokenSettings.model_validate(
        {"refresh_grace": duration, "refresh_lost_answer": "strict"}
    )


async def _reason(replica: Replica, token: str, client: ClientContext = CLIENT) -> Reason | None:
    try:
        await replica.refresh(token, client)
    except ServiceError as error:
        return error.reason
    return None


async def test_refresh_returns_next_token_pair(world: World) -> None:
    replica = world.replica()
    first = await world.open(replica)
    world.clock.advance(DAY)
    second = await replica.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    assert second.user_id == first.user_id
    assert second.refresh_token != first.refresh_token
    assert second.access_token != first.access_token
    assert second.session_token == second.csrf_token == ""
    assert second.refresh_token_expire_time == world.clock.now() + 7 * DAY
    assert second.access_token_expire_time == world.clock.now() + timedelta(hours=1)
    assert (await replica.tokens.bearer(second.access_token)).session_id == first.session_id
    assert (await replica.validate(first.session_token)).active
    session = await replica.sessions.listing.get(first.session_id)
    assert session.last_use_time == world.clock.now()
    assert session.authentication_time == world.clock.now() - DAY
    (event,) = await world.events("session.refresh")
    assert (event["session_id"], event["user_id"]) == (first.session_id, first.user_id)
    assert str(event["ip"]) == CLIENT.ip


async def test_often_refreshed_tokens_are_of_their_second_and_of_the_login(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    login = world.clock.now()
    for _ in range(20):
        world.clock.advance(0.3)
        tokens = await replica.refresh(tokens.refresh_token)
        claims = await replica.tokens.bearer(tokens.access_token)
        assert claims.issue_time == world.clock.now().replace(microsecond=0)
        assert claims.authentication_time == login


async def test_tokens_refreshed_after_a_loss_get_no_further_ahead_of_the_time(
    world: World,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    async with world.database.transaction() as connection:
        lost = await revoke_tokens(connection, tokens.user_id, world.clock.now())
    for _ in range(5):
        tokens = await replica.refresh(tokens.refresh_token)
        claims = await replica.tokens.bearer(tokens.access_token)
        assert claims.issue_time == lost.replace(microsecond=0) + SECOND
    world.clock.advance(3 * SECOND)
    tokens = await replica.refresh(tokens.refresh_token)
    claims = await replica.tokens.bearer(tokens.access_token)
    assert claims.issue_time == world.clock.now()


async def test_refresh_extends_session_up_to_absolute_expiry(
    world: World,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    end = world.clock.now() + 30 * DAY
    for _ in range(5):
        world.clock.advance(6 * DAY - SECOND)
        tokens = await replica.refresh(tokens.refresh_token)
        assert tokens.refresh_token_expire_time <= end
        assert tokens.access_token_expire_time <= end
    assert tokens.refresh_token_expire_time == end
    world.clock.advance(5 * SECOND)
    assert await _reason(replica, tokens.refresh_token) is Reason.REFRESH_TOKEN_INVALID


async def test_new_roles_appear_in_next_access_token(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await world.execute("UPDATE users SET roles = '{editor}' WHERE user_id = $1", tokens.user_id)
    tokens = await replica.refresh(tokens.refresh_token)
    assert (await replica.tokens.bearer(tokens.access_token)).roles == ("editor",)


async def test_concurrent_refreshes_advance_once_and_return_current_pair(world: World) -> None:
    replicas = [world.replica() for _ in range(2)]
    tokens = await world.open(replicas[0])
    outcomes = await asyncio.gather(
        *(replicas[turn % 2].refresh(tokens.refresh_token) for turn in range(100))
    )
    assert len({outcome.refresh_token for outcome in outcomes}) == 1
    assert (await world.row(tokens.session_id))["refresh_counter"] == 1
    assert await _reason(replicas[0], outcomes[0].refresh_token) is None
    events = await world.events("session.refresh")
    assert sum("repeated" not in event["detail"] for event in events) == 2


@pytest.mark.slow
async def test_concurrent_refreshes_without_grace_end_the_session(
    world: World,
) -> None:
    replica = world.replica(tokens=_grace("0s"))
    tokens = await world.open(replica)
    reasons = await asyncio.gather(*(_reason(replica, tokens.refresh_token) for _ in range(100)))
    assert reasons.count(None) == 1
    assert set(reasons) <= {None, Reason.REFRESH_TOKEN_REUSED, Reason.REFRESH_TOKEN_INVALID}
    assert Reason.REFRESH_TOKEN_REUSED in reasons
    row = await world.row(tokens.session_id)
    assert row["refresh_counter"] == 1
    assert row["revoke_reason"] == RevokeReason.REFRESH_TOKEN_REUSED
    assert await world.revoked() == [tokens.session_id]
    assert len(await world.events("session.refresh_reuse")) == 1


async def test_retry_within_grace_window_returns_current_pair(world: World) -> None:
    replica = world.replica(tokens=_grace("10s"))
    old = await world.open(replica)
    world.clock.advance(DAY)
    current = await replica.refresh(old.refresh_token)
    for _ in range(3):
        world.clock.advance(3)
        again = await replica.refresh(old.refresh_token)
        assert again.refresh_token == current.refresh_token
        assert again.refresh_token_expire_time == current.refresh_token_expire_time
        assert again.access_token != current.access_token
        assert (await replica.tokens.bearer(again.access_token)).session_id == old.session_id
    row = await world.row(old.session_id)
    assert row["refresh_counter"] == 1
    assert row["refresh_time"] == world.clock.now() - 9 * SECOND
    assert await _reason(replica, current.refresh_token) is None


async def _refreshed(world: World, replica: Replica, times: int) -> list[Tokens]:
    tokens = [await world.open(replica)]
    for _ in range(times):
        tokens.append(await replica.refresh(tokens[-1].refresh_token))
    return tokens


@pytest.mark.parametrize(("times", "seconds"), [(1, 10), (2, 0), (5, 3)])
async def test_reused_token_ends_session(world: World, times: int, seconds: int) -> None:
    replica = world.replica(tokens=_grace("10s"))
    tokens = await _refreshed(world, replica, times)
    world.clock.advance(seconds)
    assert await _reason(replica, tokens[0].refresh_token) is Reason.REFRESH_TOKEN_REUSED
    for text in (tokens[0].refresh_token, tokens[-1].refresh_token):
        assert await _reason(replica, text) is Reason.REFRESH_TOKEN_INVALID
    session_id = tokens[0].session_id
    session = await replica.sessions.listing.get(session_id)
    assert session.revoke_reason is RevokeReason.REFRESH_TOKEN_REUSED
    assert await world.revoked() == [session_id]
    (event,) = await world.events("session.refresh_reuse")
    assert event["session_id"] == session_id
    for strict in (True, False):
        result = await replica.validate(tokens[0].session_token, strict=strict)
        assert result.reason is InactiveReason.SESSION_REVOKED


async def test_retries_do_not_extend_grace_window(world: World) -> None:
    replica = world.replica(tokens=_grace("10s"))
    old = await world.open(replica)
    await replica.refresh(old.refresh_token)
    world.clock.advance(9)
    assert await _reason(replica, old.refresh_token) is None
    world.clock.advance(1)
    assert await _reason(replica, old.refresh_token) is Reason.REFRESH_TOKEN_REUSED


async def test_future_counter_is_invalid_and_ends_nothing(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for counter in (1, 2, 2**63 - 1):
        forged = _CODEC.encode(tokens.session_id, counter)
        assert await _reason(replica, forged) is Reason.REFRESH_TOKEN_INVALID
    assert await _reason(replica, tokens.refresh_token) is None


@pytest.mark.parametrize("binding", ["off", "exact"])
async def test_token_of_unknown_session_is_invalid(world: World, binding: str) -> None:
    token = _CODEC.encode(SessionId(uuid7(world.clock.now())), 0)
    replica = world.replica(ip_binding=binding)
    assert await _reason(replica, token) is Reason.REFRESH_TOKEN_INVALID


@pytest.mark.parametrize("current", [True, False])
@pytest.mark.parametrize("end", ["revoked", "expired", "disabled"])
async def test_inactive_session_cannot_be_refreshed(world: World, end: str, current: bool) -> None:
    replica = world.replica(tokens=_grace("300s"))
    first = await world.open(replica)
    second = await replica.refresh(first.refresh_token)
    if end == "revoked":
        await replica.sessions.ending.revoke(CALL, first.session_id)
    elif end == "expired":
        world.clock.advance(7 * DAY)
    else:
        await world.disable(first.user_id)
    token = (second if current else first).refresh_token
    assert await _reason(replica, token) is Reason.REFRESH_TOKEN_INVALID
    assert (await world.row(first.session_id))["refresh_counter"] == 1


async def test_idle_session_cannot_be_refreshed_after_expiry(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    world.clock.advance(7 * DAY - SECOND)
    tokens = await replica.refresh(tokens.refresh_token)
    world.clock.advance(7 * DAY)
    assert await _reason(replica, tokens.refresh_token) is Reason.REFRESH_TOKEN_INVALID


_STRANGERS = [ClientContext("198.51.100.1", CLIENT.user_agent), ClientContext(CLIENT.ip, "Bot")]


@pytest.mark.parametrize("stranger", _STRANGERS)
async def test_refresh_by_other_than_bound_client_is_rejected(
    world: World, stranger: ClientContext
) -> None:
    replica = world.replica(ip_binding="exact", user_agent_binding=True, tokens=_grace("10s"))
    first = await world.open(replica)
    before = await world.row(first.session_id)
    mismatch = Reason.SESSION_BINDING_MISMATCH
    assert await _reason(replica, first.refresh_token, stranger) is mismatch
    assert await world.row(first.session_id) == before
    await replica.refresh(first.refresh_token)
    assert await _reason(replica, first.refresh_token, stranger) is mismatch
    world.clock.advance(10)
    # An old token from another client is the typical reuse.
    assert await _reason(replica, first.refresh_token, stranger) is Reason.REFRESH_TOKEN_REUSED


async def test_binding_is_off_by_default(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    assert await _reason(replica, tokens.refresh_token, ClientContext()) is None


async def test_tokens_of_other_kinds_are_not_refresh_tokens(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for text in (tokens.access_token, tokens.session_token, tokens.csrf_token, "", "garbage"):
        assert await _reason(replica, text) is Reason.REFRESH_TOKEN_INVALID
        with pytest.raises(ServiceError) as caught:
            await replica.sessions.ending.log_out(CALL, text)
        assert caught.value.reason is Reason.REFRESH_TOKEN_INVALID
    assert await _reason(replica, tokens.refresh_token) is None


@pytest.mark.slow
async def test_refresh_during_revocation_never_revives_session(world: World) -> None:
    replica = world.replica()
    for _ in range(20):
        tokens = await world.open(replica)
        await asyncio.gather(
            _reason(replica, tokens.refresh_token),
            replica.sessions.ending.revoke(CALL, tokens.session_id),
            _reason(replica, tokens.refresh_token),
        )
        assert await _reason(replica, tokens.refresh_token) is Reason.REFRESH_TOKEN_INVALID
        result = await replica.validate(tokens.session_token)
        assert result.reason is InactiveReason.SESSION_REVOKED


async def test_refreshes_are_recorded_and_logged(world: World) -> None:
    replica = world.replica(tokens=_grace("10s"))
    first = await world.open(replica)
    with capture_logs() as logs:
        for _ in range(2):
            await replica.refresh(first.refresh_token)
    details = [json.loads(event["detail"]) for event in await world.events("session.refresh")]
    assert details == [{}, {"repeated": True}]
    logged = [line for line in logs if line.get("type") == "session.refresh"]
    assert [line["user_id"] for line in logged] == [str(first.user_id)] * 2


async def test_current_token_from_another_client_never_ends_session(world: World) -> None:
    replica = world.replica(ip_binding="exact", tokens=_grace("10s"))
    tokens = await replica.refresh((await world.open(replica)).refresh_token)
    world.clock.advance(DAY)
    reason = await _reason(replica, tokens.refresh_token, ClientContext("198.51.100.1"))
    assert reason is Reason.SESSION_BINDING_MISMATCH
    assert await _reason(replica, tokens.refresh_token) is None


async def test_refreshes_at_once_share_statements(world: World) -> None:
    """Each still gets the next token of its own session, and its own event."""
    replica = world.replica()
    opened = [await world.open(replica) for _ in range(40)]
    world.clock.advance(SECOND)
    renewed = await asyncio.gather(*(replica.refresh(tokens.refresh_token) for tokens in opened))
    for before, after in zip(opened, renewed, strict=True):
        assert after.session_id == before.session_id
        assert after.refresh_token != before.refresh_token
    events = await world.events("session.refresh")
    assert len({event["session_id"] for event in events}) == len(events) == 40
    assert len(await world.fetch("SELECT DISTINCT xmin::text FROM sessions")) < 40


async def test_refresh_of_a_locked_session_waits_alone(world: World) -> None:
    replica = world.replica()
    locked, free = await world.open(replica), await world.open(replica)
    async with world.database.transaction() as holder:
        await holder.execute(
            "SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE", locked.session_id
        )
        waiting = asyncio.create_task(replica.refresh(locked.refresh_token))
        for _ in range(3):
            free = await replica.refresh(free.refresh_token)
        assert not waiting.done()
    assert (await waiting).session_id == locked.session_id
    assert (await world.row(locked.session_id))["refresh_counter"] == 1
