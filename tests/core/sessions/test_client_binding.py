"""Sessions bound to the IP address and user agent that opened them."""

import pytest

from authsvc.config import SessionSettings
from authsvc.core.sessions.client_binding import ClientBinding
from authsvc.models.calls import ClientContext
from authsvc.models.tokens import InactiveReason
from tests.support.sessions import CALL, DAY, Replica, World


@pytest.mark.parametrize(
    ("opened", "used", "accepted"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.2", "192.0.2.3", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("2001:db8::2", "2001:db8::3", False),
        ("192.0.2.1", None, False),
        ("192.0.2.1", "garbage", False),
        (None, "192.0.2.1", True),
        (None, None, True),
    ],
)
async def test_session_can_be_bound_to_ip(
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
async def test_session_can_be_bound_to_network(
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
async def test_session_can_be_bound_to_user_agent(
    world: World, opened: str, used: str, accepted: bool
) -> None:
    replica = world.replica(user_agent_binding=True)
    await _try_client(
        world, replica, ClientContext(None, opened), ClientContext(None, used), accepted
    )


async def _try_client(
    world: World, replica: Replica, opened: ClientContext, used: ClientContext, accepted: bool
) -> None:
    tokens = await replica.sessions.opening.create(CALL, await world.add_user(), opened, ("pwd",))
    for _ in range(2):
        assert (await replica.validate(tokens.session_token, used)).active is accepted
        assert (await replica.validate(tokens.session_token, opened)).active


async def test_binding_is_off_by_default(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    assert (await replica.validate(tokens.session_token, ClientContext())).active


async def test_mismatched_client_neither_extends_session_nor_is_recorded(world: World) -> None:
    replica = world.replica(ip_binding="exact")
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    before = await world.row(tokens.session_id)
    # Once when its last use is due to be recorded, and once when its lifetime is due for extension
    # too.
    for days in (1, 4):
        world.clock.advance(days * DAY)
        for strict in (False, True):
            stranger = ClientContext("198.51.100.1")
            await replica.validate(tokens.session_token, stranger, strict=strict)
        await replica.sessions.last_use.flush()
        assert await world.row(tokens.session_id) == before


def test_unparsable_address_matches_only_itself() -> None:
    binding = ClientBinding(SessionSettings(ip_binding="subnet"))
    for opened, used in (
        ("garbage", "192.0.2.1"),
        ("192.0.2.1", "garbage"),
        ("garbage", "rubbish"),
    ):
        mismatch = binding.mismatch(ClientContext(opened), ClientContext(used))
        assert mismatch is InactiveReason.IP_MISMATCH
    assert binding.mismatch(ClientContext("garbage"), ClientContext("garbage")) is None


async def test_mismatch_with_cached_session_costs_no_query(world: World) -> None:
    replica = world.replica(ip_binding="exact")
    tokens = await world.open(replica)
    await replica.validate(tokens.session_token)
    await world.database.close()
    result = await replica.validate(tokens.session_token, ClientContext("198.51.100.1"))
    assert result.reason is InactiveReason.IP_MISMATCH


async def test_each_binding_ignores_what_it_does_not_bind(world: World) -> None:
    opened = ClientContext("192.0.2.1", "Browser")
    by_user_agent = world.replica(user_agent_binding=True)
    await _try_client(world, by_user_agent, opened, ClientContext("192.0.2.2", "Browser"), True)
    by_ip = world.replica(ip_binding="exact")
    await _try_client(world, by_ip, opened, ClientContext("192.0.2.1", "Bot"), True)
