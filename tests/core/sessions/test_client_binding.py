"""Sessions bound to the IP address and user agent that opened them."""

from dataclasses import replace

import pytest

from authsvc.config import SessionSettings
from authsvc.core.sessions.client_binding import ClientBinding
from authsvc.errors import Reason, ServiceError
from authsvc.models.calls import ClientContext
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason
from tests.support.clock import FakeClock
from tests.support.sessions import CALL, DAY, Replica, World
from tests.support.tokens import make_session


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


def _session(ip: str, other_ip: str | None = None) -> Session:
    return replace(make_session(FakeClock()), client=ClientContext(ip), other_ip=other_ip)


def test_unparsable_address_matches_only_itself() -> None:
    binding = ClientBinding(SessionSettings(ip_binding="subnet"))
    for opened, used in (
        ("garbage", "192.0.2.1"),
        ("192.0.2.1", "garbage"),
        ("garbage", "rubbish"),
    ):
        mismatch = binding.mismatch(_session(opened), ClientContext(used))
        assert mismatch is InactiveReason.IP_MISMATCH
    assert binding.mismatch(_session("garbage"), ClientContext("garbage")) is None


@pytest.mark.parametrize(
    ("kind", "used", "accepted"),
    [
        ("subnet", "192.0.2.200", True),
        ("subnet", "2001:db8::7", True),
        ("subnet", "192.0.3.1", False),
        ("subnet", "2001:db8:0:1::1", False),
        ("subnet", None, False),
        ("exact", "192.0.2.1", True),
        ("exact", "2001:db8::1", True),
        ("exact", "192.0.2.2", False),
        ("exact", "2001:db8::2", False),
    ],
)
def test_session_may_be_bound_to_an_address_of_each_family(
    kind: str, used: str | None, accepted: bool
) -> None:
    binding = ClientBinding(SessionSettings.model_validate({"ip_binding": kind}))
    both = [_session("192.0.2.1", "2001:db8::1"), _session("2001:db8::1", "192.0.2.1")]
    for session in both:
        mismatch = binding.mismatch(session, ClientContext(used))
        assert mismatch is (None if accepted else InactiveReason.IP_MISMATCH)


_V4, _V6 = (ClientContext(ip, "Browser/1", "phone") for ip in ("192.0.2.1", "2001:db8::1"))


async def test_dual_stack_client_uses_either_family_after_a_login_over_each(world: World) -> None:
    replica = world.replica(ip_binding="subnet")
    user_id = await world.add_user()
    first = await replica.sessions.opening.create(CALL, user_id, _V4, ("pwd",))
    # Use alone never teaches a session an address, or a thief would come over the other family.
    assert not (await replica.validate(first.session_token, _V6)).active
    with pytest.raises(ServiceError) as caught:
        await replica.refresh(first.refresh_token, _V6)
    assert caught.value.reason is Reason.SESSION_BINDING_MISMATCH
    assert (await replica.validate(first.session_token, _V4)).active
    second = await replica.sessions.opening.create(CALL, user_id, _V6, ("pwd",))
    for client in (_V4, _V6, replace(_V4, ip="192.0.2.9"), replace(_V6, ip="2001:db8::9")):
        assert (await replica.validate(second.session_token, client)).active
        second = replace(
            await replica.refresh(second.refresh_token, client), session_token=second.session_token
        )
    for ip in ("192.0.3.1", "2001:db8:0:1::1"):
        stranger = replace(_V4, ip=ip)
        result = await replica.validate(second.session_token, stranger)
        assert result.reason is InactiveReason.IP_MISMATCH


@pytest.mark.parametrize("difference", ["user", "device", "no device", "ended", "expired", "same"])
async def test_only_an_active_session_of_the_same_device_lends_its_address(
    world: World, difference: str
) -> None:
    replica = world.replica(ip_binding="subnet")
    opening = replica.sessions.opening
    user_id = await world.add_user()
    former = {"device": replace(_V4, device_id="laptop"), "no device": replace(_V4, device_id="")}
    client = replace(_V6, device_id="") if difference == "no device" else _V6
    first = await opening.create(CALL, user_id, former.get(difference, _V4), ("pwd",))
    if difference == "ended":
        await replica.sessions.ending.revoke(CALL, first.session_id)
    elif difference == "expired":
        world.clock.advance(7 * DAY)
    owner = await world.add_user() if difference == "user" else user_id
    second = await opening.create(CALL, owner, client, ("pwd",))
    used = await replica.validate(second.session_token, replace(client, ip=_V4.ip))
    assert used.active is (difference == "same")


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
