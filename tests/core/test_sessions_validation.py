"""Session tokens judged: every reason told apart, use noted, life extended."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from authsvc.config import TokenSettings
from authsvc.core.session_tokens import new_csrf_token, new_session_token
from authsvc.core.sessions import SessionCheck
from authsvc.models import ClientContext, InactiveReason, Tokens
from tests.sessions import CALL, CLIENT, DAY, SECOND, Replica, World

MINUTE = timedelta(minutes=1)


async def test_an_active_session_is_returned(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for _ in range(2):  # from the database, from the cache
        result = await replica.validate(tokens.session_token)
        assert result.active
        assert result.reason is None
        assert result.session is not None
        assert result.session.session_id == tokens.session_id
        assert not result.csrf_valid


async def _revoke(world: World, replica: Replica, tokens: Tokens) -> None:
    await replica.sessions.revoke(CALL, tokens.session_id)


async def _disable(world: World, _replica: Replica, tokens: Tokens) -> None:
    await world.disable(tokens.user_id)


async def _expire(world: World, _replica: Replica, _tokens: Tokens) -> None:
    world.clock.advance(7 * DAY)


async def _delete(world: World, _replica: Replica, tokens: Tokens) -> None:
    await world.execute("DELETE FROM sessions WHERE session_id = $1", tokens.session_id)


_ENDS = [
    (_delete, InactiveReason.SESSION_UNKNOWN),
    (_revoke, InactiveReason.SESSION_REVOKED),
    (_disable, InactiveReason.USER_DISABLED),
    (_expire, InactiveReason.SESSION_EXPIRED),
]


@pytest.mark.parametrize(("end", "reason"), _ENDS)
@pytest.mark.parametrize("strict", [True, False])
async def test_each_end_has_its_reason(
    world: World,
    end: Callable[[World, Replica, Tokens], Awaitable[None]],
    reason: InactiveReason,
    strict: bool,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await end(world, replica, tokens)
    for _ in range(2):
        result = await replica.validate(tokens.session_token, strict=strict)
        assert not result.active
        assert result.reason is reason
        assert result.session is None


async def test_of_several_reasons_the_weightiest_is_told(world: World) -> None:
    replica = world.replica(ip_binding="exact", user_agent_binding=True)
    tokens = await world.open(replica)
    stranger = ClientContext("198.51.100.1", "Bot")

    async def reason() -> InactiveReason | None:
        return (await replica.validate(tokens.session_token, stranger)).reason

    same_ip = ClientContext(CLIENT.ip, "Bot")
    by_agent = await replica.validate(tokens.session_token, same_ip)
    assert by_agent.reason is InactiveReason.USER_AGENT_MISMATCH
    assert await reason() is InactiveReason.IP_MISMATCH
    world.clock.advance(7 * DAY)
    assert await reason() is InactiveReason.SESSION_EXPIRED
    await world.disable(tokens.user_id)
    assert await reason() is InactiveReason.USER_DISABLED
    await replica.sessions.revoke(CALL, tokens.session_id)
    assert await reason() is InactiveReason.SESSION_REVOKED


async def test_an_unknown_token_is_not_a_malformed_one(world: World) -> None:
    replica = world.replica()
    result = await replica.validate(new_session_token())
    assert result.reason is InactiveReason.SESSION_UNKNOWN
    assert (await replica.validate("as1_garbage")).reason is InactiveReason.MALFORMED


async def test_a_malformed_token_costs_no_query(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await world.database.close()
    changed = tokens.session_token[:-1] + ("A" if tokens.session_token[-1] != "A" else "B")
    for token in (changed, tokens.access_token, tokens.refresh_token, tokens.csrf_token, ""):
        result = await replica.validate(token, strict=True)
        assert result.reason is InactiveReason.MALFORMED


async def test_the_anti_forgery_token_is_its_sessions_own(world: World) -> None:
    replica = world.replica()
    tokens, others = await world.open(replica), await world.open(replica)
    for _ in range(2):
        for csrf_token, valid in (
            (tokens.csrf_token, True),
            (others.csrf_token, False),
            (new_csrf_token(), False),
            (tokens.csrf_token[:-1], False),
            ("\N{SNOWMAN}", False),
            ("", False),
        ):
            result = await replica.validate(tokens.session_token, csrf_token=csrf_token)
            assert result.active
            assert result.csrf_valid is valid


async def test_an_inactive_session_has_no_valid_anti_forgery_token(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.sessions.revoke(CALL, tokens.session_id)
    result = await replica.validate(tokens.session_token, csrf_token=tokens.csrf_token)
    assert not result.csrf_valid


async def test_many_are_judged_in_their_order(world: World) -> None:
    replica = world.replica()
    opened = [await world.open(replica) for _ in range(4)]
    await replica.validate(opened[1].session_token)
    await replica.sessions.revoke(CALL, opened[2].session_id)
    texts = [opened[0], opened[1], opened[2], opened[1]]
    checks = [SessionCheck(tokens.session_token, CLIENT) for tokens in texts]
    checks.insert(2, SessionCheck("garbage", CLIENT))
    checks.append(SessionCheck(opened[3].session_token, CLIENT, opened[3].csrf_token, strict=True))
    results = await replica.sessions.validate_many(checks)
    ids = [result.session and result.session.session_id for result in results]
    assert ids == [
        opened[0].session_id,
        opened[1].session_id,
        None,
        None,
        opened[1].session_id,
        opened[3].session_id,
    ]
    assert results[2].reason is InactiveReason.MALFORMED
    assert results[3].reason is InactiveReason.SESSION_REVOKED
    assert results[5].csrf_valid
    assert await replica.sessions.validate_many([]) == []


@pytest.mark.parametrize(
    ("opened", "used", "accepted"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("192.0.2.1", None, False),
        ("192.0.2.1", "garbage", False),
        (None, "192.0.2.1", True),
        (None, None, True),
    ],
)
async def test_a_session_can_be_bound_to_an_address(
    world: World, opened: str | None, used: str | None, accepted: bool
) -> None:
    replica = world.replica(ip_binding="exact")
    await _try_client(world, replica, ClientContext(opened), ClientContext(used), accepted)


@pytest.mark.parametrize(
    ("opened", "used", "accepted"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "::ffff:192.0.2.200", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("192.0.2.1", "::192.0.2.1", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("2001:db8::1", "192.0.2.1", False),
        ("192.0.2.1", None, False),
        (None, "192.0.2.1", True),
    ],
)
async def test_a_session_can_be_bound_to_a_network(
    world: World, opened: str | None, used: str | None, accepted: bool
) -> None:
    replica = world.replica(ip_binding="subnet")
    await _try_client(world, replica, ClientContext(opened), ClientContext(used), accepted)


@pytest.mark.parametrize(
    ("opened", "used", "accepted"),
    [
        ("Browser", "Browser", True),
        ("Browser", "Bot", False),
        ("Browser", "", False),
        ("", "A", True),
    ],
)
async def test_a_session_can_be_bound_to_a_user_agent(
    world: World, opened: str, used: str, accepted: bool
) -> None:
    replica = world.replica(user_agent_binding=True)
    await _try_client(
        world, replica, ClientContext(None, opened), ClientContext(None, used), accepted
    )


async def _try_client(
    world: World, replica: Replica, opened: ClientContext, used: ClientContext, accepted: bool
) -> None:
    tokens = await replica.sessions.create(CALL, await world.add_user(), opened, ("pwd",))
    for _ in range(2):
        assert (await replica.validate(tokens.session_token, used)).active is accepted
        assert (await replica.validate(tokens.session_token, opened)).active


async def test_binding_is_off_unless_set(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    assert (await replica.validate(tokens.session_token, ClientContext())).active


async def test_a_strangers_use_neither_extends_nor_is_noted(world: World) -> None:
    replica = world.replica(ip_binding="exact")
    tokens = await world.open(replica)
    before = await world.row(tokens.session_id)
    world.clock.advance(5 * DAY)
    for strict in (False, True):
        await replica.validate(tokens.session_token, ClientContext("198.51.100.1"), strict=strict)
    await replica.sessions.flush()
    assert await world.row(tokens.session_id) == before


async def test_life_is_extended_once_half_of_it_is_over(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    start = world.clock.now()
    world.clock.advance(3.5 * DAY - SECOND)
    assert await _idle_expire_time(replica, tokens) == start + 7 * DAY
    world.clock.advance(SECOND)
    assert await _idle_expire_time(replica, tokens) == world.clock.now() + 7 * DAY
    row = await world.row(tokens.session_id)
    assert row["idle_expire_time"] == world.clock.now() + 7 * DAY


@pytest.mark.parametrize("strict", [True, False])
async def test_life_is_never_extended_past_its_absolute_end(world: World, strict: bool) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    end = world.clock.now() + 30 * DAY
    while world.clock.now() < end:
        result = await replica.validate(tokens.session_token, strict=strict)
        assert result.session is not None
        assert result.session.idle_expire_time <= end
        world.clock.advance(DAY)
    result = await replica.validate(tokens.session_token, strict=strict)
    assert result.reason is InactiveReason.SESSION_EXPIRED


async def test_an_expired_session_is_not_revived(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    world.clock.advance(7 * DAY)
    for _ in range(2):
        result = await replica.validate(tokens.session_token)
        assert result.reason is InactiveReason.SESSION_EXPIRED
    assert (await world.row(tokens.session_id))["idle_expire_time"] == world.clock.now()


async def test_what_another_replica_extended_has_not_expired(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    world.clock.advance(5 * DAY)
    await there.validate(tokens.session_token)
    world.clock.advance(3 * DAY)
    assert (await here.validate(tokens.session_token)).active


async def test_what_another_replica_refreshed_has_not_expired(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    await here.validate(tokens.session_token)
    world.clock.advance(6 * DAY)
    await there.refresh(tokens.refresh_token)
    world.clock.advance(2 * DAY)
    assert (await here.validate(tokens.session_token)).active


async def test_a_refresh_is_seen_in_the_session_at_once(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    world.clock.advance(DAY)
    await replica.refresh(tokens.refresh_token)
    assert await _idle_expire_time(replica, tokens) == world.clock.now() + 7 * DAY


async def test_a_session_that_another_transaction_holds_is_answered_without_waiting(
    world: World,
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    world.clock.advance(4 * DAY)
    async with world.database.transaction() as connection:
        await connection.execute(
            "UPDATE sessions SET device_id = 'other' WHERE session_id = $1", tokens.session_id
        )
        assert (await replica.validate(tokens.session_token)).active
    await replica.validate(tokens.session_token)
    row = await world.row(tokens.session_id)
    assert row["idle_expire_time"] == world.clock.now() + 7 * DAY


async def test_many_sessions_are_extended_in_few_statements(world: World) -> None:
    replica = world.replica(max_per_user=100)
    user_id = await world.add_user()
    opened = [await world.open(replica, user_id) for _ in range(50)]
    world.clock.advance(4 * DAY)
    checks = [SessionCheck(tokens.session_token, CLIENT) for tokens in opened]
    results = await replica.sessions.validate_many(checks)
    end = world.clock.now() + 7 * DAY
    assert all(result.session and result.session.idle_expire_time == end for result in results)


async def test_last_use_is_written_once_an_interval(world: World) -> None:
    replica = world.replica(last_use_interval="1m")
    tokens = await world.open(replica)
    start = world.clock.now()

    async def written() -> timedelta:
        await replica.sessions.flush()
        time: timedelta = (await world.row(tokens.session_id))["last_use_time"] - start
        return time

    for offset, expected in ((30, 0), (60, 60), (90, 60), (119, 60), (125, 125)):
        world.clock.advance(start + offset * SECOND - world.clock.now())
        result = await replica.validate(tokens.session_token)
        assert result.session is not None
        assert result.session.last_use_time == start + expected * SECOND
        assert await written() == expected * SECOND


async def test_replicas_together_write_last_use_once_an_interval(world: World) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(here)
    for replica in (here, there):
        await replica.validate(tokens.session_token)
    world.clock.advance(MINUTE)
    await here.validate(tokens.session_token)
    await here.sessions.flush()
    first = world.clock.now()
    world.clock.advance(10)
    await there.validate(tokens.session_token)
    await there.sessions.flush()
    assert (await world.row(tokens.session_id))["last_use_time"] == first


async def test_last_use_is_written_in_the_background(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    running = asyncio.create_task(replica.sessions.run())
    world.clock.advance(MINUTE)
    await replica.validate(tokens.session_token)
    async with asyncio.timeout(30):
        while await _last_use(world, tokens) != world.clock.now():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    running.cancel()


async def _last_use(world: World, tokens: Tokens) -> object:
    return (await world.row(tokens.session_id))["last_use_time"]


async def test_writing_last_use_brings_nothing_back(world: World) -> None:
    replica = world.replica()
    revoked, gone, kept = [await world.open(replica) for _ in range(3)]
    world.clock.advance(MINUTE)
    for tokens in (revoked, gone, kept):
        await replica.validate(tokens.session_token)
    await replica.sessions.revoke(CALL, revoked.session_id)
    await _delete(world, replica, gone)
    await replica.sessions.flush()
    assert (await world.row(revoked.session_id))["revoke_time"] == world.clock.now()
    assert (await world.row(revoked.session_id))["last_use_time"] == world.clock.now() - MINUTE
    assert (await world.row(kept.session_id))["last_use_time"] == world.clock.now()
    result = await replica.validate(revoked.session_token)
    assert result.reason is InactiveReason.SESSION_REVOKED


async def _idle_expire_time(replica: Replica, tokens: Tokens) -> object:
    result = await replica.validate(tokens.session_token)
    assert result.session is not None
    return result.session.idle_expire_time


async def test_short_lifetimes_hold_to_the_second(world: World) -> None:
    short = TokenSettings.model_validate({"refresh_lifetime": "2s"})
    replica = world.replica(tokens=short, absolute_lifetime="3s")
    tokens = await world.open(replica)
    for _ in range(3):
        assert (await replica.validate(tokens.session_token)).active
        world.clock.advance(1)
    result = await replica.validate(tokens.session_token)
    assert result.reason is InactiveReason.SESSION_EXPIRED
