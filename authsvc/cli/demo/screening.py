"""Owns the chapter about screening: an address that goes too far is blocked, and unblocked."""

from authsvc.cli.demo.tour import Tour, new_email
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2

_VIOLATIONS = 10


async def screening(tour: Tour) -> None:
    """Show how requests are screened by address, and how addresses are blocked."""
    ip = tour.client.ip
    await _too_far(tour, ip)
    await _unblock(tour, ip)
    await _operator(tour, ip)


async def _screen(tour: Tour, ip: str, policy: str) -> rate_limit_service_pb2.ScreenRequestResponse:
    request = rate_limit_service_pb2.ScreenRequestRequest(ip=ip, policy=policy)
    return await tour.limits("edge").ScreenRequest(request)


def _show(
    tour: Tour,
    what: str,
    answer: rate_limit_service_pb2.ScreenRequestResponse,
    *,
    expected: bool = False,
) -> None:
    if answer.allowed:
        outcome = "allowed"
    else:
        reason = rate_limit_service_pb2.ScreenReason.Name(answer.reason)
        wait = answer.retry_after.ToTimedelta().total_seconds()
        outcome = f"{reason.removeprefix('SCREEN_REASON_')}, retry after {wait:.0f} s"
    tour.answer(what, outcome, accepted=answer.allowed, expected=expected)


async def _too_far(tour: Tour, ip: str) -> None:
    tour.title(f"A gateway screens requests from {ip} by the policy “login”: five in five minutes")
    for number in range(1, 7):
        answer = await _screen(tour, ip, "login")
        _show(tour, f"request {number}", answer, expected=number <= 5)
    for _ in range(_VIOLATIONS - 1):
        await _screen(tour, ip, "login")
    tour.say("ten refusals are tolerated; it tries once more", "the eleventh")
    await _screen(tour, ip, "login")
    _show(tour, "now the address is blocked, whatever the policy", await _screen(tour, ip, "api"))
    await tour.rejected(
        "and the service itself refuses a login from there",
        tour.login(new_email("eve"), "Wrong-Password-1"),
    )


async def _unblock(tour: Tour, ip: str) -> None:
    tour.title("An operator looks at the block, and lifts it")
    admin = tour.admin()
    found = await admin.ListIpBlocks(pb.ListIpBlocksRequest(covering=ip))
    for block in found.blocks:
        tour.say(f"{block.network}, by {block.blocked_by}", block.reason)
        await admin.UnblockIp(pb.UnblockIpRequest(network=block.network))
    _show(tour, "a request", await _screen(tour, ip, "api"), expected=True)


async def _operator(tour: Tour, ip: str) -> None:
    tour.title("Operators block networks, too")
    admin = tour.admin()
    everybody = pb.BlockIpRequest(network="0.0.0.0/0", reason="a slip of the finger")
    await tour.rejected("all addresses, without a confirmation", admin.BlockIp(everybody))
    request = pb.BlockIpRequest(network=ip, reason="case 4711")
    request.duration.FromSeconds(600)
    block = (await admin.BlockIp(request)).block
    tour.say(f"{block.network} until {block.expire_time.ToJsonString()}", block.reason)
    _show(tour, "a request", await _screen(tour, ip, "api"))
    await admin.UnblockIp(pb.UnblockIpRequest(network=ip))
    _show(tour, "after it is lifted", await _screen(tour, ip, "api"), expected=True)
