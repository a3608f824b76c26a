"""Blocks that operators make and lift: what is refused, what is lifted, and what is listed."""

from datetime import timedelta
from ipaddress import ip_network

import pytest

from authsvc.config import BlockSettings
from authsvc.errors import FailedPrecondition, FieldInvalid, Reason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.screening import OPERATOR, Replica

IP, HOUR = "203.0.113.7", timedelta(hours=1)
_EVENTS = """
SELECT type, caller, detail::json ->> 'network' AS network FROM audit_events ORDER BY event_id
"""


async def test_unblocking_tells_what_still_applies(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    for network in (f"{IP}/32", "203.0.113.0/24", "203.0.0.0/16", "198.51.100.0/24"):
        await replica.block(network, HOUR)
    unblocked = await replica.unblock(IP)
    assert unblocked.was_blocked
    assert [block.network for block in unblocked.remaining] == ["203.0.0.0/16", "203.0.113.0/24"]
    assert await replica.screen(IP) == "IP_BLOCKED"
    again = await replica.unblock(IP)
    assert (again.was_blocked, again.remaining) == (False, unblocked.remaining)
    for network in ("203.0.113.0/24", "203.0.0.0/16"):
        await replica.unblock(network)
    assert await replica.screen(IP) == ""


async def test_unblocking_forgets_violations(database: Database, clock: FakeClock) -> None:
    here, there = Replica(database, clock), Replica(database, clock)
    for _ in range(11):
        await there.violations.note(IP)
    assert await here.screen(IP) == "IP_BLOCKED"
    for replica in (here, there):
        for _ in range(5):
            await replica.violations.note(IP)
        await replica.violations.flush()
    await here.unblock(IP)
    assert await here.screen(IP) == ""
    for _ in range(5):
        await there.violations.note(IP)
    await there.violations.flush()
    assert await here.screen(IP) == ""


async def test_block_is_replaced(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    await replica.block(IP)
    block = await replica.block(IP, HOUR)
    assert await replica.blocking.list_after(None, 10) == [block]
    assert block.blocked_by == OPERATOR.caller
    clock.advance(HOUR)
    assert await replica.listed() == []
    assert await replica.screen(IP) == ""


async def test_each_change_is_an_audit_event(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    await replica.block(IP)
    await replica.unblock(IP)
    await replica.unblock(IP)
    async with database.connection() as connection:
        rows = [tuple(row) for row in await connection.fetch(_EVENTS)]
    assert rows == [
        ("ip.block", OPERATOR.caller, f"{IP}/32"),
        ("ip.unblock", OPERATOR.caller, f"{IP}/32"),
    ]


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "64.0.0.0/2", "2000::/15"])
async def test_wide_network_needs_confirmation(
    database: Database, clock: FakeClock, network: str
) -> None:
    replica = Replica(database, clock)
    with pytest.raises(FieldInvalid, match="confirm_wide"):
        await replica.block(network)
    assert await replica.listed() == []
    await replica.block(network, confirm_wide=True)
    assert await replica.listed() == [network]
    inside = str(ip_network(network).network_address + 77)
    assert await replica.screen(inside) == "IP_BLOCKED"
    async with replica.following():
        assert await replica.screen(inside) == "IP_BLOCKED"


async def test_allowed_network_is_never_blocked(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, allow=["203.0.113.0/24"])
    for network in (IP, "203.0.113.0/24"):
        with pytest.raises(FieldInvalid, match=r"blocks\.allow"):
            await replica.block(network)
    await replica.block("203.0.0.0/16")
    assert await replica.screen(IP) == ""
    assert await replica.screen("203.0.112.1") == "IP_BLOCKED"
    replica.blocks.replace_allowed(BlockSettings().allowed_networks())
    assert await replica.screen(IP) == "IP_BLOCKED"


async def test_number_of_blocks_is_bounded(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock, max_blocks=1)
    async with replica.following():
        await replica.block(IP)
        await replica.knows(IP, blocked=True)
        with pytest.raises(FailedPrecondition) as raised:
            await replica.block("192.0.2.1")
        assert raised.value.reason is Reason.LIMIT_REACHED


async def test_pages_of_the_list_follow_one_another(database: Database, clock: FakeClock) -> None:
    replica = Replica(database, clock)
    wanted = ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "192.0.2.0/24", "2001:db8::/32"]
    for network in reversed(wanted):
        await replica.block(network)
    await replica.block("10.0.0.0/12", HOUR)
    clock.advance(HOUR)
    listed: list[str] = []
    while page := await replica.blocking.list_after(listed[-1] if listed else None, 2):
        listed += [block.network for block in page]
    assert listed == wanted
    covering = await replica.blocking.covering("10.0.0.0/16")
    assert [block.network for block in covering] == wanted[:2]
